# Order Ledger: `commands` and `serve` in one image. The wheel is built in the first stage; the second has it and nothing to
# build with. Python is the version that the tests run on. No lock file is kept: what matters is pinned in pyproject.toml.
#
#   docker build -t order-ledger .

# Not the slim image: on arm64 there is no wheel of faust-streaming, and it is compiled here.
FROM python:3.11-bookworm AS build

ENV PIP_NO_CACHE_DIR=1 \
    UV_COMPILE_BYTECODE=1 \
    UV_LINK_MODE=copy \
    UV_NO_CACHE=1 \
    UV_PYTHON_DOWNLOADS=never

RUN pip install 'uv>=0.9,<1'
RUN uv venv --python /usr/local/bin/python3.11 /opt/order-ledger
ENV VIRTUAL_ENV=/opt/order-ledger

WORKDIR /src
# The dependencies in a layer of their own: they rarely change.
COPY pyproject.toml ./
# `sms` for NOTIFY_SMS_URL, `oidc` for OIDC_ISSUER, `traces` for a collector; to `export` from the image too, add `--extra export` to
# them (OPERATIONS.md, Installing).
ARG EXTRAS="--extra sms --extra oidc --extra traces"
RUN uv pip install -r pyproject.toml $EXTRAS
COPY . .
RUN uv build --wheel --out-dir /dist && uv pip install --no-deps /dist/*.whl


FROM python:3.11-slim-bookworm

LABEL org.opencontainers.image.title="Order Ledger" \
      org.opencontainers.image.description="A Kafka event-sourced order service" \
      org.opencontainers.image.licenses="Apache-2.0"

# The databases belong to this user; a named volume takes its owner from the folder that it is mounted on.
RUN groupadd --gid 10001 ledger \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin ledger \
    && install -d -o ledger -g ledger -m 0750 /var/lib/order-ledger

COPY --from=build /opt/order-ledger /opt/order-ledger

ENV PATH=/opt/order-ledger/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    APP_ENV=production \
    HOST=0.0.0.0 \
    PORT=8000 \
    STATE_DIR=/var/lib/order-ledger

WORKDIR /var/lib/order-ledger
VOLUME /var/lib/order-ledger
USER 10001:10001
EXPOSE 8000
STOPSIGNAL SIGTERM

# For `serve`. `commands` answers /ready on METRICS_PORT, and exits non-zero when it cannot continue: disable this check for it.
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --start-interval=1s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as u; u.build_opener(u.ProxyHandler({})).open(f'http://127.0.0.1:{os.environ[\"PORT\"]}/ready', timeout=4)"]

CMD ["order-ledger", "serve"]
