"""Notes of the desk about an order (`addNote` to `deleteNote`): free text, stored beside the contact and erased with it."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import Response

from api.call import Call
from api.contract import desk_operations as docs
from api.contract.queries import QueryParameters
from api.contract.requests import AddNoteBody
from api.contract.responses import NoteListOut
from api.edge import json_response
from api.problems import Problem
from api.representations import note_shown, to_json
from api.visibility import order_of_path
from commands.idempotency import command_id_of
from ledger.audit import CONTACT_READ, DONE
from ledger.bounds import MAX_NOTES
from ledger.clock import now_ms
from ledger.contacts import NOBODY, Note, erased_key, note_key, note_of
from ledger.log import NewRecord
from ledger.schemas.codec import contact_codec

ADD = "AddNote"  # part of a note's id; never changes


def add_routes(router: APIRouter) -> None:
    """Register the routes."""
    router.add_api_route("/orders/{order_id}/notes", add_note, methods=["POST"], **docs.ADD_NOTE)
    router.add_api_route("/orders/{order_id}/notes", read_notes, methods=["GET"], **docs.READ_NOTES)
    router.add_api_route("/orders/{order_id}/notes/{note_id}", delete_note, methods=["DELETE"], **docs.DELETE_NOTE)


async def add_note(call: Call) -> Response:
    """`addNote`. The note's id derives from the key, so a retry meets the first one, or the mark that it is deleted."""
    principal = call.allow("admin")
    key = call.idempotency_key()
    partition, order = await order_of_path(call)
    _, body = await call.body_as(AddNoteBody)
    ctx = call.ctx
    note_id = command_id_of(principal.name, "", ADD, order.order_id, key).removeprefix("cmd_")
    name = note_key(order.order_id, note_id)
    async with ctx.note_lock(order.order_id):
        contacts = ctx.projector.contacts
        known = contacts.note(order.order_id, note_id)
        if known is not None and known.text != body.text:
            raise Problem("idempotency-key-reused")
        if contacts.is_erased(name):
            raise Problem("idempotency-key-reused", "The note that was added with this key is deleted.")
        if known is None and len(contacts.notes(order.order_id)) >= MAX_NOTES:
            raise Problem("limit-exceeded", f"An order has at most {MAX_NOTES} notes: delete one first.")
        note = known or Note(body.text, principal.actor, now_ms())
        if known is None:
            value = contact_codec().encode(note_of(order.customer_id, note))
            await ctx.submissions.keep([NewRecord(ctx.topics.contacts, partition, name, value)])
    headers = {} if known is None else {"Idempotency-Replayed": "true"}
    return json_response(to_json(note_shown(note_id, note)), 201, headers)


async def read_notes(call: Call) -> Response:
    """`readNotes`."""
    call.allow("admin")
    partition, order = await order_of_path(call)
    call.query(QueryParameters)
    call.ctx.refuse_unfolded_contacts(partition)
    notes = [note_shown(note_id, note) for note_id, note in call.ctx.projector.contacts.notes(order.order_id)]
    if notes:
        call.ctx.audit.note(call.by, CONTACT_READ, DONE, order_id=order.order_id, customer_id=order.customer_id)
    return json_response(to_json(NoteListOut(notes)), 200, {"Ledger-Position": call.ctx.position(partition)})


async def delete_note(call: Call) -> Response:
    """`deleteNote`: as an erasure does it, so that no retry of its `addNote` brings it back; durable when it is answered."""
    call.allow("admin")
    partition, order = await order_of_path(call)
    call.query(QueryParameters)
    note_id: str = call.path_params["note_id"]
    if call.ctx.projector.contacts.note(order.order_id, note_id) is None:
        raise Problem("not-found")
    topic, key = call.ctx.topics.contacts, note_key(order.order_id, note_id)
    mark = NewRecord(topic, partition, erased_key(key), contact_codec().encode(NOBODY))
    await call.ctx.submissions.keep([mark, NewRecord(topic, partition, key, None)])
    return Response(None, 204)
