import java.nio.file.Files;
import java.nio.file.Path;
import java.util.regex.MatchResult;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import org.apache.flink.configuration.Configuration;
import org.apache.flink.table.api.EnvironmentSettings;
import org.apache.flink.table.api.TableEnvironment;

/** Runs a file of SQL in this process, with ${NAME} from the environment: {@code RunSql orders.sql key=value...} */
class RunSql {
  private static final Pattern SET = Pattern.compile("(?m)^SET '(.+)' = '(.+)'"); // of Flink's SQL client

  public static void main(String[] args) throws Exception {
    var options = new Configuration();
    for (int i = 1; i < args.length; i++) {
      String[] option = args[i].split("=", 2);
      options.setString(option[0], option[1]);
    }
    var tables = TableEnvironment.create(EnvironmentSettings.newInstance().inStreamingMode().withConfiguration(options).build());
    String sql = Pattern.compile("\\$\\{(\\w+)}").matcher(Files.readString(Path.of(args[0]))).replaceAll(RunSql::setting);
    for (String statement : sql.split(";\\s*\\n(?=\\s*(--.*\\n)*\\s*(SET|CREATE|EXECUTE)\\b)")) {
      var set = SET.matcher(statement);
      if (set.find()) {
        tables.getConfig().set(set.group(1), set.group(2));
        continue;
      }
      var result = tables.executeSql(statement);
      if (result.getJobClient().isPresent()) {
        result.await(); // for ever: the topic has no end
      }
    }
  }

  private static String setting(MatchResult match) {
    String value = System.getenv(match.group(1));
    if (value == null) {
      throw new IllegalArgumentException(match.group(1) + " is not set in the environment");
    }
    return Matcher.quoteReplacement(value);
  }
}
