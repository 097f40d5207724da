"""`import "blocks.net"`: what is found, and what must not be read."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from netc.errors import NetcError
from netc.frontend.net.elaborate import parse_net, read_net

NET = "net n(x: f32[2]) -> y {{ y = {} }}\n"


def write(folder: Path, **files: str) -> None:
    for name, text in files.items():
        path = folder / (name.replace("__", "/") + ".net")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")


def test_imported_names(tmp_path: Path) -> None:
    write(
        tmp_path,
        main='import "parts/a.net"\nimport "b.net"\n' + NET.format("x |> a |> b |> affine(two)"),
        parts__a='import "deeper/c.net"\nblock a(x) { return c(x) }',
        parts__deeper__c="block c(x) { return relu(x) }\n" + NET.format("c(x)"),
        b='import "parts/deeper/c.net"\nlet two = 2\nop b(x) = x * two',
    )
    g = read_net(tmp_path / "main.net")
    assert [n.name for n in g.nodes] == ["x", "a/c/relu", "b", "y"]
    assert str(g.nodes[1].loc) == "parts/deeper/c.net:1:21"


def test_a_mistake_in_an_imported_file(tmp_path: Path) -> None:
    write(tmp_path, main='import "a.net"\n' + NET.format("a(x)"), a="block a(x) { return rleu(x) }")
    with pytest.raises(NetcError) as e:
        read_net(tmp_path / "main.net")
    assert str(e.value).startswith("a.net:1:21: error: there is no op or block `rleu`\n")


def test_a_cycle(tmp_path: Path) -> None:
    write(tmp_path, a='import "b.net"', b='import "c.net"', c='import "b.net"')
    with pytest.raises(NetcError) as e:
        read_net(tmp_path / "a.net")
    assert "c.net:1:8: error: a.net imports b.net imports c.net imports b.net: a cycle" in str(
        e.value
    )


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("../secret.net", "it leaves the folder of this file"),
        ("sub/../../secret.net", "it leaves the folder of this file"),
        ("{folder}/secret.net", "it leaves the folder of this file"),
        ("secret.txt", "not the name of a `.net` file"),
        ("", "not the name of a `.net` file"),
        (r"..\\secret.net", "not the name of a `.net` file"),
        (r"a\u{0}.net", "not the name of a `.net` file"),
        ("link.net", "'link.net' is a symbolic link"),
        ("linked/secret.net", "'linked' is a symbolic link"),
        ("fifo.net", "fifo.net is not a file"),
        ("folder.net", "folder.net is not a file"),
        ("missing.net", "cannot open missing.net: No such file or directory"),
        ("main.net", "main.net imports main.net: a cycle"),
        ("./sub/.././secret.net", "it leaves the folder of this file"),
        ("x" * 5000 + ".net", "File name too long"),
    ],
)
def test_no_file_outside_the_folder_is_read(tmp_path: Path, path: str, why: str) -> None:
    write(tmp_path, secret="let a = 1", nets__secret="let a = 1")
    folder = tmp_path / "nets"
    (folder / "link.net").symlink_to(tmp_path / "secret.net")
    (folder / "linked").symlink_to(tmp_path, target_is_directory=True)
    (folder / "folder.net").mkdir()
    os.mkfifo(folder / "fifo.net")
    text = f'import "{path.replace("{folder}", str(folder))}"\n{NET.format("relu(x)")}'
    (folder / "main.net").write_text(text)
    start = time.perf_counter()
    with pytest.raises(NetcError) as e:
        read_net(folder / "main.net")
    assert why in str(e.value)
    assert time.perf_counter() - start < 10  # a FIFO would wait for ever


def test_a_text_imports_nothing() -> None:
    with pytest.raises(NetcError, match="a text that is no file cannot import"):
        parse_net('import "a.net"')


def test_a_definition_stands_once(tmp_path: Path) -> None:
    write(tmp_path, main='import "a.net"\nblock a(x) { return x }', a="op a(x) = x")
    with pytest.raises(NetcError, match="`a` is defined twice"):
        read_net(tmp_path / "main.net")


def test_a_long_chain_of_imports(tmp_path: Path) -> None:
    files = {f"f{i}": f'import "f{i + 1}.net"' for i in range(150)}
    write(tmp_path, **files, f150="")
    with pytest.raises(NetcError, match="more than 100 files are imported"):
        read_net(tmp_path / "f0.net")


def test_not_utf8(tmp_path: Path) -> None:
    (tmp_path / "a.net").write_bytes(b"let a = 1\n# caf\xe9\n")
    with pytest.raises(NetcError, match=r"a.net is not UTF-8 \(line 2\)"):
        read_net(tmp_path / "a.net")


def test_a_byte_order_mark_and_line_ends(tmp_path: Path) -> None:
    (tmp_path / "a.net").write_bytes(
        b"\xef\xbb\xbf" + NET.format("relu(x)").replace("\n", "\r\n").encode()
    )
    assert [n.name for n in read_net(tmp_path / "a.net").nodes] == ["x", "y"]
