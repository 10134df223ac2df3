// Judges an AsyncAPI document with the official parser, which has the rules of AsyncAPI's own command line.
// Argument: the file. Prints every diagnostic, of whatever severity, as a JSON array.
import { AvroSchemaParser } from "@asyncapi/avro-schema-parser";
import { Parser } from "@asyncapi/parser";
import { readFileSync } from "node:fs";

const parser = new Parser();
parser.registerSchemaParser((AvroSchemaParser.default ?? AvroSchemaParser)());
const { document, diagnostics } = await parser.parse(readFileSync(process.argv[2], "utf-8"));
console.log(JSON.stringify({ version: document?.version() ?? null, diagnostics }));
