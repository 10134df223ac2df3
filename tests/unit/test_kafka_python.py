"""The private names of kafka-python that `ledger/kafka/{transactions,groups}.py` use still exist, with the same parameters."""

from __future__ import annotations

import inspect

from kafka.admin import KafkaAdminClient, ProducerState, TransactionState
from kafka.net.compat import KafkaNetClient
from kafka.net.manager import KafkaConnectionManager
from kafka.protocol.producer import WriteTxnMarkersRequest
from pydantic import SecretStr

from ledger.kafka.settings import KafkaSettings
from ledger.kafka.transactions import ENDING, admin_config


def test_the_private_names_are_there_with_these_parameters() -> None:
    assert list(inspect.signature(KafkaConnectionManager.run).parameters) == ["self", "coro", "args"]
    assert list(inspect.signature(KafkaConnectionManager.send).parameters)[:3] == ["self", "request", "node_id"]
    assert inspect.iscoroutinefunction(KafkaAdminClient._async_get_leader_for_partitions)
    assert inspect.iscoroutinefunction(KafkaAdminClient._find_coordinator_ids)
    assert list(inspect.signature(KafkaAdminClient._describe_groups_request).parameters) == ["self", "group_ids"]
    source = inspect.getsource(KafkaAdminClient.__init__)
    assert source.index("self._client =") < source.index("self._net.start()") < source.index(".bootstrap(")
    assert "_net.close()" in inspect.getsource(KafkaNetClient.close)
    assert ProducerState._fields[0] == "producer_id"
    assert {"current_transaction_start_offset", "coordinator_epoch", "last_timestamp"} < set(ProducerState._fields)


def test_a_marker_that_commits_is_one_flag_of_the_request_that_aborts() -> None:
    marker = WriteTxnMarkersRequest.WritableTxnMarker
    topics = [marker.WritableTxnMarkerTopic(name="t", partition_indexes=[3])]
    requests = [
        WriteTxnMarkersRequest(
            markers=[marker(producer_id=7, producer_epoch=2, transaction_result=commit, topics=topics, coordinator_epoch=1)],
            version=1,
        ).encode()
        for commit in (False, True)
    ]
    assert len(requests[0]) == len(requests[1])
    assert [(a, b) for a, b in zip(*requests, strict=True) if a != b] == [(0, 1)]


def test_the_states_in_which_a_coordinator_still_ends_a_transaction_are_among_kafkas() -> None:
    assert {state.value for state in TransactionState} > ENDING
    assert {state.value for state in TransactionState} - ENDING == {"Empty", "CompleteCommit", "CompleteAbort", "Dead", "Unknown"}


def test_every_setting_of_the_connection_arrives_under_a_name_that_the_client_knows() -> None:
    settings = KafkaSettings(
        _env_file=None,
        bootstrap_servers="a:1,b:2",
        security_protocol="SASL_SSL",
        ssl_ca_location="ca.pem",
        ssl_certificate_location="own.pem",
        ssl_key_location="key.pem",
        ssl_key_password=SecretStr("k"),
        sasl_mechanism="SCRAM-SHA-512",
        sasl_username="ada",
        sasl_password=SecretStr("p"),
    )
    config = admin_config(settings, 5)
    assert set(config) <= set(KafkaAdminClient.DEFAULT_CONFIG)
    assert config == {
        "bootstrap_servers": ["a:1", "b:2"],
        "client_id": "order-ledger-transactions",
        "security_protocol": "SASL_SSL",
        "bootstrap_timeout_ms": 5000,
        "request_timeout_ms": 5000,
        "ssl_cafile": "ca.pem",
        "ssl_certfile": "own.pem",
        "ssl_keyfile": "key.pem",
        "ssl_password": "k",
        "sasl_mechanism": "SCRAM-SHA-512",
        "sasl_plain_username": "ada",
        "sasl_plain_password": "p",
    }
    # a new setting for librdkafka must not be forgotten here
    assert len(config) - 2 == len(settings.client_config())
