"""LlamaIndex's documents and nodes through `sync`: kept as they are; edits and deletions follow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from llama_documents import KEYS
from llama_index.core import Document, SimpleDirectoryReader
from llama_index.core.node_parser import SentenceSplitter
from llama_index.core.schema import ImageNode, IndexNode, MetadataMode, NodeRelationship, RelatedNodeInfo, TextNode
from llama_index.retrievers.tarragon import TarragonRetriever, document_of, node_of

from tarragon import Index
from tarragon.errors import InvalidDocument, TooManyDeletions
from tarragon.testing import WordEncoder


def all_nodes(retriever: TarragonRetriever) -> list[TextNode]:
    return [node_of(hit) for hit in retriever.index.passages()]


# --- documents --------------------------------------------------------------------------------------------------------
def test_edits_and_deletions_follow_and_nothing_is_embedded_twice(tmp_path: Path, documents: list[Document]) -> None:
    encoder = WordEncoder()
    with TarragonRetriever.from_documents(documents, tmp_path / "a.tarragon", encoder=encoder) as retriever:
        probes = encoder.documents_encoded
        assert retriever.sync(documents).chunks_embedded == 0
        assert encoder.documents_encoded == probes
        documents[1].set_content("The backup is copied to tape every night.")
        report = retriever.sync(documents)
        assert (report.documents_changed, report.chunks_embedded) == (1, 1)
        assert "tape" in retriever.retrieve("where is the backup copied?")[0].text
        report = retriever.sync(documents[:2])
        assert (report.documents_deleted, report.chunks_embedded) == (1, 0)
        assert retriever.index.documents() == ["backup", "keys.md"]


def test_other_metadata_cost_nothing_unless_they_are_embedded(tmp_path: Path, documents: list[Document]) -> None:
    with TarragonRetriever.from_documents(documents, tmp_path / "a.tarragon", encoder=WordEncoder()) as retriever:
        documents[0].metadata["year"] = 1999  # excluded from embedding
        assert retriever.sync(documents).chunks_embedded == 0
        assert retriever.retrieve("signing key")[0].node.metadata["year"] == 1999
        documents[0].metadata["team"] = "release"
        assert retriever.sync(documents).chunks_embedded == 3


def test_metadata_are_searched_unless_they_are_excluded(tmp_path: Path) -> None:
    texts = {"a": ["title"], "b": [], "c": ["title"]}
    documents = [
        Document(
            text=f"Body {id_}.", id_=id_, metadata={"title": f"zebra {id_}"}, excluded_embed_metadata_keys=excluded
        )
        for id_, excluded in texts.items()
    ]
    with TarragonRetriever.from_documents(documents, tmp_path / "a.tarragon", encoder=WordEncoder()) as retriever:
        found = retriever.retrieve("zebra")
        assert found[0].node.ref_doc_id == "b"
        assert found[0].node.get_content() == "Body b.", "what is searched is not what is shown"
        assert found[0].node.get_content(MetadataMode.EMBED) == "title: zebra b\n\nBody b."


def test_a_folder_read_by_llama_index(tmp_path: Path) -> None:
    folder = tmp_path / "docs"
    folder.mkdir()
    (folder / "keys.md").write_text(KEYS)
    (folder / "code.py").write_text("def rotate(key):\n    return key[::-1]\n")
    read = SimpleDirectoryReader(str(folder), filename_as_id=True).load_data
    with TarragonRetriever.from_documents(read(), tmp_path / "a.tarragon", encoder=WordEncoder()) as retriever:
        first = retriever.index.passages()
        assert {node_of(hit).metadata["file_name"] for hit in first} == {"keys.md", "code.py"}
        assert sum("keys.md" in hit.document_id for hit in retriever.index.passages()) == 3, "read as Markdown"
        (folder / "keys.md").write_text(KEYS.replace("April", "October"))
        report = retriever.sync(read())
        assert (report.documents_changed, report.documents_unchanged) == (1, 1)


def test_ids_that_change_at_each_reading_do_not_go_unnoticed(tmp_path: Path) -> None:
    texts = [f"Text number {n}." for n in range(30)]
    encoder = WordEncoder()
    with TarragonRetriever.from_documents(
        [Document(text=text) for text in texts], tmp_path / "a.tarragon", encoder=encoder
    ) as retriever:
        with pytest.raises(TooManyDeletions):
            retriever.sync([Document(text=text) for text in texts])
        before = encoder.documents_encoded
        report = retriever.sync([Document(text=text) for text in texts], max_delete=1.0)
        assert (report.documents_added, report.documents_deleted) == (30, 30)
        assert encoder.documents_encoded == before, "texts keep their vectors under other ids"


def test_one_bad_document_is_told_and_the_others_are_there(tmp_path: Path) -> None:
    documents = [Document(text="Good words.", id_="good"), Document(text="Bad.", id_="bad", metadata={"x": {1, 2}})]
    with (
        pytest.warns(UserWarning, match="1 documents could not be indexed: bad: .*set"),
        TarragonRetriever.from_documents(documents, tmp_path / "a.tarragon", encoder=WordEncoder()) as retriever,
    ):
        assert [one.node.ref_doc_id for one in retriever.retrieve("words")] == ["good"]


def test_the_key_under_which_nodes_are_kept_is_not_for_users() -> None:
    with pytest.raises(InvalidDocument, match="_node"):
        document_of(Document(text="x", metadata={"_node": 1}))


# --- nodes ------------------------------------------------------------------------------------------------------------
def sample_nodes() -> list[TextNode]:
    split = SentenceSplitter(chunk_size=40, chunk_overlap=0).get_nodes_from_documents(
        [Document(text=KEYS, id_="keys.md", metadata={"team": "security"}, excluded_llm_metadata_keys=["team"])]
    )
    others: list[Any] = [
        IndexNode(text="An index of keys.", index_id="keys", id_="index-node", metadata={"a": 1}),
        ImageNode(text="A picture of a key.", id_="image-node", image_url="http://example.org/key.png"),
        TextNode(text=" \n  Blanks around.\n\n", id_="blanks", start_char_idx=5, end_char_idx=25),
        TextNode(
            text="# Not\n\n## Cut\n\nText.",
            id_="relations",
            text_template="<{content}|{metadata_str}>",
            metadata={"nested": {"a": [1, None, 2.5]}, "b": True},
            excluded_embed_metadata_keys=["b"],
            relationships={
                NodeRelationship.PARENT: RelatedNodeInfo(node_id="parent", metadata={"x": 1}, hash="h"),
                NodeRelationship.CHILD: [RelatedNodeInfo(node_id="c1"), RelatedNodeInfo(node_id="c2")],
                NodeRelationship.NEXT: RelatedNodeInfo(node_id="blanks", node_type="4"),
            },
        ),
    ]
    return [*split, *others]


def test_nodes_come_back_as_they_were(tmp_path: Path) -> None:
    nodes = sample_nodes()
    with TarragonRetriever.from_documents(nodes, tmp_path / "a.tarragon", encoder=WordEncoder()) as retriever:
        back = {node.node_id: node for node in all_nodes(retriever)}
    assert set(back) == {node.node_id for node in nodes}
    for node in nodes:
        assert type(back[node.node_id]) is type(node)
        assert back[node.node_id].to_dict() == node.to_dict()
        assert back[node.node_id].ref_doc_id == node.ref_doc_id


def test_nodes_are_never_cut_and_searched_under_their_own_ids(tmp_path: Path) -> None:
    long = TextNode(text="# A\n\n" + "many words here. " * 300, id_="long")
    with TarragonRetriever.from_documents(
        [long, *sample_nodes()], tmp_path / "a.tarragon", encoder=WordEncoder()
    ) as retriever:
        assert retriever.retrieve("many words here")[0].node.node_id == "long"
        assert retriever.retrieve("many words here")[0].node.get_content() == long.text


def test_all_nodes_of_a_document_can_be_deleted(tmp_path: Path, documents: list[Document]) -> None:
    nodes = sample_nodes()
    path = tmp_path / "a.tarragon"
    with TarragonRetriever.from_documents([*nodes, *documents[1:]], path, encoder=WordEncoder()) as retriever:
        assert retriever.delete_ref_doc("keys.md") == len(nodes) - 4
        assert retriever.delete_ref_doc("backup") == 1
        assert retriever.delete_ref_doc("unknown") == 0
        assert retriever.index.documents() == ["blanks", "image-node", "index-node", "relations", "walls"]


def test_blank_nodes_are_left_out(tmp_path: Path) -> None:
    nodes = [TextNode(text=" \n", id_="blank"), TextNode(text="words", id_="words")]
    with TarragonRetriever.from_documents(nodes, tmp_path / "a.tarragon", encoder=WordEncoder()) as retriever:
        assert retriever.index.documents() == ["words"]


@pytest.mark.parametrize(
    ("id_", "metadata", "expected"),
    [
        ("x.py", {"file_name": "x.md"}, "code"),
        ("https://example.com/guide", {"file_name": "guide.rst"}, "rst"),
        ("v1.2-notes", {"file_path": "/srv/tool.py"}, "code"),
        ("7b4e", {}, "markdown"),
    ],
)
def test_the_format_is_what_a_name_says(id_: str, metadata: dict[str, Any], expected: str) -> None:
    assert document_of(Document(text="x", id_=id_, metadata=metadata)).format == expected


def test_an_index_of_plain_tarragon_is_read_as_well(tmp_path: Path) -> None:
    folder = tmp_path / "docs"
    folder.mkdir()
    (folder / "keys.md").write_text(KEYS)
    with Index.open(tmp_path / "a.tarragon", encoder=WordEncoder()) as index:
        index.sync(folder, progress=False)
        node = TarragonRetriever(index).retrieve("rotate the key")[0].node
    assert isinstance(node, TextNode)
    assert node.ref_doc_id == "keys.md"
    assert KEYS[node.start_char_idx : node.end_char_idx] == node.text
