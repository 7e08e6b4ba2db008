"""LlamaIndex's documents and nodes as Tarragon's documents, and hits as nodes.

A `Document` is chunked; each hit in it is a `TextNode` whose id is the chunk's: the same as long as its text is. Any
other node is kept whole, and comes back under its own id with its text and what belongs to it, relationships included.
Of a multimodal `Node` that is its text, of an `IndexNode` not its object, which retrievers keep (``object_map``).

What LlamaIndex knows beside text and metadata (ids, excluded keys, templates, relationships, offsets) is kept in the
metadata under one key, `KEPT`, which never shows in a node that comes back.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llama_index.core.schema import (
    BaseNode,
    ImageNode,
    IndexNode,
    MetadataMode,
    NodeRelationship,
    NodeWithScore,
    ObjectType,
    RelatedNodeInfo,
    TextNode,
)
from llama_index.core.schema import (
    Document as LlamaDocument,
)

from tarragon import Document, Hit
from tarragon.errors import InvalidDocument
from tarragon.sources.formats import TEXT_SUFFIXES, format_of, suffix_of
from tarragon.types import Format

KEPT = "_node"
"""Key of the metadata under which the rest of a node is kept."""

_CLASSES: dict[str, type[TextNode]] = {"TextNode": TextNode, "IndexNode": IndexNode, "ImageNode": ImageNode}
_FIELDS = (
    "excluded_embed_metadata_keys",
    "excluded_llm_metadata_keys",
    "metadata_template",
    "metadata_separator",
    "text_template",
    "start_char_idx",
    "end_char_idx",
    "mimetype",
    "index_id",
    "image",
    "image_path",
    "image_url",
    "image_mimetype",
)
"""What a class has of these is kept where it is not its default."""

_FILE_KEYS = ("file_name", "file_path")
"""Metadata of LlamaIndex's readers that tell what kind of file a document is of."""


def document_of(node: BaseNode) -> Document:
    """A document or node as a document to sync, under its own id.

    Metadata that are not excluded from embedding are embedded and searched by words, before the text of each chunk, as
    LlamaIndex does it.

    Raises:
        InvalidDocument: The metadata use the key that the rest of the node is kept under.
    """
    if KEPT in node.metadata:
        raise InvalidDocument(f"the metadata of {node.node_id!r} have the key {KEPT!r}, which is Tarragon's; rename it")
    is_whole = not isinstance(node, LlamaDocument)
    text = node.get_content(metadata_mode=MetadataMode.NONE)
    kept = _kept(node)
    if is_whole:
        kept |= {"id": node.node_id, "ref": node.ref_doc_id or "", "class": type(node).__name__, **_blanks(text)}
    return Document(
        node.node_id,
        text,
        {**node.metadata, KEPT: kept} if kept else dict(node.metadata),
        "whole" if is_whole else _format_of(node),
        node.get_metadata_str(MetadataMode.EMBED),
    )


def has_text(node: BaseNode) -> bool:
    """Whether there is anything to find. A blank document is kept all the same: it may get a text later."""
    return isinstance(node, LlamaDocument) or bool(node.get_content(metadata_mode=MetadataMode.NONE).strip())


def _kept(node: BaseNode) -> dict[str, Any]:
    fields = type(node).model_fields
    kept: dict[str, Any] = {}
    for name in _FIELDS:
        if name in fields and (value := getattr(node, name)) != fields[name].get_default(call_default_factory=True):
            kept[name] = value
    if node.relationships:
        kept["relationships"] = {relation.name: _packed(value) for relation, value in node.relationships.items()}
    return kept


def _packed(related: RelatedNodeInfo | list[RelatedNodeInfo]) -> Any:
    if isinstance(related, list):
        return [_packed(one) for one in related]
    found = {"node_id": related.node_id, "metadata": related.metadata, "hash": related.hash}
    kind = related.node_type
    found["node_type"] = kind.name if isinstance(kind, ObjectType) else kind
    return {name: value for name, value in found.items() if value}


def _unpacked(related: Any) -> RelatedNodeInfo | list[RelatedNodeInfo]:
    if isinstance(related, list):
        return [_related(one) for one in related]
    return _related(related)


def _related(packed: Mapping[str, Any]) -> RelatedNodeInfo:
    kind = packed.get("node_type")
    known = ObjectType.__members__.get(kind, kind) if isinstance(kind, str) else None
    return RelatedNodeInfo(
        node_id=packed["node_id"], node_type=known, metadata=packed.get("metadata") or {}, hash=packed.get("hash")
    )


def _blanks(text: str) -> dict[str, str]:
    """White space around a text, which chunks do not have; a blank text has no chunk at all."""
    head = text[: len(text) - len(text.lstrip())]
    tail = text[len(text.rstrip()) :]
    return {name: value for name, value in (("head", head), ("tail", tail)) if value}


def _format_of(node: BaseNode) -> Format:
    """As the id says, or the first name of a file that says it."""
    names = [name for key in _FILE_KEYS if isinstance(name := node.metadata.get(key), str)]
    return next((format_of(name) for name in [node.node_id, *names] if suffix_of(name) in TEXT_SUFFIXES), "markdown")


# --- back -------------------------------------------------------------------------------------------------------------
def node_of(hit: Hit) -> TextNode:
    """The node of a hit. Nothing in it depends on the query."""
    metadata = dict(hit.metadata)
    kept: Mapping[str, Any] = metadata.pop(KEPT, None) or {}
    return _node(hit, metadata, kept) if "id" in kept else _chunk(hit, metadata, kept)


def scored_node_of(hit: Hit) -> NodeWithScore:
    """The node of a hit with its score."""
    return NodeWithScore(node=node_of(hit), score=float(hit.score))


def _chunk(hit: Hit, metadata: dict[str, Any], kept: Mapping[str, Any]) -> TextNode:
    source = RelatedNodeInfo(node_id=hit.document_id, node_type=ObjectType.DOCUMENT, metadata=metadata)
    relationships: dict[NodeRelationship, Any] = {
        NodeRelationship[name]: _unpacked(value) for name, value in kept.get("relationships", {}).items()
    }
    relationships[NodeRelationship.SOURCE] = source
    for relation, id_ in ((NodeRelationship.PREVIOUS, hit.previous), (NodeRelationship.NEXT, hit.next)):
        if id_ is not None:
            relationships[relation] = RelatedNodeInfo(node_id=id_, node_type=ObjectType.TEXT)
    fields = {name: value for name, value in kept.items() if name in _FIELDS and name in TextNode.model_fields}
    return TextNode(
        id_=hit.chunk_id,
        text=hit.text,
        metadata=metadata,
        relationships=relationships,
        **{**fields, "start_char_idx": hit.start, "end_char_idx": hit.end},
    )


def _node(hit: Hit, metadata: dict[str, Any], kept: Mapping[str, Any]) -> TextNode:
    relationships = {NodeRelationship[name]: _unpacked(value) for name, value in kept.get("relationships", {}).items()}
    return _CLASSES.get(kept["class"], TextNode)(
        id_=kept["id"],
        text=f"{kept.get('head', '')}{hit.text}{kept.get('tail', '')}",
        metadata=metadata,
        relationships=relationships,
        **{name: value for name, value in kept.items() if name in _FIELDS},
    )
