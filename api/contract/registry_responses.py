"""Answers in the shapes of the schema registry, like `responses`."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, field

from api.contract import examples
from api.contract.responses import Response


class RegistryErrorOut(Response):
    """An error in the shape of the schema registry."""

    EXAMPLES = (examples.REGISTRY_ERROR,)

    error_code: int
    message: str


class RegistrySchemaOut(Response):
    """A schema of the registry."""

    schema_text: Annotated[str, Meta(description="the Avro schema, minified JSON in a string")] = field(name="schema")


class RegistryVersionOut(RegistrySchemaOut):
    """One version of a subject."""

    subject: str
    version: int
    id: int


class RegistrySubjectVersionOut(Response):
    """A subject and version with a schema."""

    subject: str
    version: int


class RegistryConfigOut(Response):
    """Which versions of a subject must read what the others wrote."""

    level: Annotated[Literal["FULL_TRANSITIVE"], Meta(description="each version reads what every other one wrote")] = field(
        name="compatibilityLevel"
    )


class RegistryModeOut(Response):
    """Whether schemas can be registered."""

    mode: Annotated[Literal["READONLY"], Meta(description="schemas are part of the program")]


class RegistryCompatibilityOut(Response):
    """Whether a schema fits the versions that it was compared with."""

    is_compatible: Annotated[bool, Meta(description="whether each can read what the other wrote")]
    messages: Annotated[list[str], Meta(description="the reasons against it, if `verbose` asked for them")] = field(
        default_factory=list
    )
