from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Line(_message.Message):
    __slots__ = ("sku", "name", "quantity", "unit_price_minor")
    SKU_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    QUANTITY_FIELD_NUMBER: _ClassVar[int]
    UNIT_PRICE_MINOR_FIELD_NUMBER: _ClassVar[int]
    sku: str
    name: str
    quantity: int
    unit_price_minor: int
    def __init__(self, sku: _Optional[str] = ..., name: _Optional[str] = ..., quantity: _Optional[int] = ..., unit_price_minor: _Optional[int] = ...) -> None: ...

class ReserveRequest(_message.Message):
    __slots__ = ("order_id", "key", "currency", "lines")
    ORDER_ID_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    CURRENCY_FIELD_NUMBER: _ClassVar[int]
    LINES_FIELD_NUMBER: _ClassVar[int]
    order_id: str
    key: str
    currency: str
    lines: _containers.RepeatedCompositeFieldContainer[Line]
    def __init__(self, order_id: _Optional[str] = ..., key: _Optional[str] = ..., currency: _Optional[str] = ..., lines: _Optional[_Iterable[_Union[Line, _Mapping]]] = ...) -> None: ...

class Item(_message.Message):
    __slots__ = ("sku", "available")
    SKU_FIELD_NUMBER: _ClassVar[int]
    AVAILABLE_FIELD_NUMBER: _ClassVar[int]
    sku: str
    available: int
    def __init__(self, sku: _Optional[str] = ..., available: _Optional[int] = ...) -> None: ...

class ReserveReply(_message.Message):
    __slots__ = ("status", "reservation_ref", "reason", "items")
    class Status(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        STATUS_UNSPECIFIED: _ClassVar[ReserveReply.Status]
        RESERVED: _ClassVar[ReserveReply.Status]
        REJECTED: _ClassVar[ReserveReply.Status]
        RELEASED: _ClassVar[ReserveReply.Status]
    STATUS_UNSPECIFIED: ReserveReply.Status
    RESERVED: ReserveReply.Status
    REJECTED: ReserveReply.Status
    RELEASED: ReserveReply.Status
    class Reason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        REASON_UNSPECIFIED: _ClassVar[ReserveReply.Reason]
        OUT_OF_STOCK: _ClassVar[ReserveReply.Reason]
        UNKNOWN_ITEM: _ClassVar[ReserveReply.Reason]
        PRICE_CHANGED: _ClassVar[ReserveReply.Reason]
    REASON_UNSPECIFIED: ReserveReply.Reason
    OUT_OF_STOCK: ReserveReply.Reason
    UNKNOWN_ITEM: ReserveReply.Reason
    PRICE_CHANGED: ReserveReply.Reason
    STATUS_FIELD_NUMBER: _ClassVar[int]
    RESERVATION_REF_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    status: ReserveReply.Status
    reservation_ref: str
    reason: ReserveReply.Reason
    items: _containers.RepeatedCompositeFieldContainer[Item]
    def __init__(self, status: _Optional[_Union[ReserveReply.Status, str]] = ..., reservation_ref: _Optional[str] = ..., reason: _Optional[_Union[ReserveReply.Reason, str]] = ..., items: _Optional[_Iterable[_Union[Item, _Mapping]]] = ...) -> None: ...

class ReleaseRequest(_message.Message):
    __slots__ = ("order_id", "key")
    ORDER_ID_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    order_id: str
    key: str
    def __init__(self, order_id: _Optional[str] = ..., key: _Optional[str] = ...) -> None: ...

class ReleaseReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Units(_message.Message):
    __slots__ = ("sku", "quantity")
    SKU_FIELD_NUMBER: _ClassVar[int]
    QUANTITY_FIELD_NUMBER: _ClassVar[int]
    sku: str
    quantity: int
    def __init__(self, sku: _Optional[str] = ..., quantity: _Optional[int] = ...) -> None: ...

class ReleasePartRequest(_message.Message):
    __slots__ = ("order_id", "key", "units")
    ORDER_ID_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    UNITS_FIELD_NUMBER: _ClassVar[int]
    order_id: str
    key: str
    units: _containers.RepeatedCompositeFieldContainer[Units]
    def __init__(self, order_id: _Optional[str] = ..., key: _Optional[str] = ..., units: _Optional[_Iterable[_Union[Units, _Mapping]]] = ...) -> None: ...

class CapabilitiesRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class CapabilitiesReply(_message.Message):
    __slots__ = ("release_parts",)
    RELEASE_PARTS_FIELD_NUMBER: _ClassVar[int]
    release_parts: bool
    def __init__(self, release_parts: _Optional[bool] = ...) -> None: ...
