"""C++ that is compiled when it is asked for."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from grokscope.native import compiler, compiler_version, load

pytestmark = pytest.mark.skipif(compiler() is None, reason="no C++ compiler")
CODE = '#include "seven.h"\nextern "C" int answer() { return SEVEN; }\n'


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    source, header = tmp_path / "seven.cpp", tmp_path / "seven.h"
    source.write_text(CODE)
    header.write_text("#define SEVEN 7\n")
    return source, header


def made(tmp_path):
    return sorted((tmp_path / "cache" / "grokscope").iterdir())


def test_it_is_compiled_once_and_again_when_anything_changes(tmp_path, files):
    source, header = files
    assert load("seven", [source], [header], []).answer() == 7
    (library,) = made(tmp_path)
    stamp = library.stat().st_mtime_ns
    assert load("seven", [source], [header], []).answer() == 7
    assert library.stat().st_mtime_ns == stamp
    header.write_text("#define SEVEN 8\n")
    assert load("seven", [source], [header], []).answer() == 8
    load("seven", [source], [header], ["-O2"])
    assert len(made(tmp_path)) == 3


def test_a_damaged_library_is_made_again(tmp_path, files):
    """To load one that was cut would end the process."""
    source, header = files
    load("seven", [source], [header], [])
    (library,) = made(tmp_path)
    begins = library.read_bytes()[:5000]
    library.unlink()  # What is loaded must keep its file.
    library.write_bytes(begins)
    assert load("seven", [source], [header], []).answer() == 7
    (again,) = made(tmp_path)
    assert len(again.read_bytes()) > 5000


def test_many_at_once_all_get_it(tmp_path, files):
    source, header = files
    with ThreadPoolExecutor(4) as pool:
        loaded = list(pool.map(lambda _: load("seven", [source], [header], []), range(4)))
    assert [one.answer() for one in loaded] == [7] * 4
    assert len(made(tmp_path)) == 1


def test_where_it_cannot_be_made_there_is_none_and_nothing_is_left(tmp_path, files, monkeypatch):
    source, header = files
    header.write_text("#define SEVEN no such thing\n")
    assert load("seven", [source], [header], []) is None
    assert made(tmp_path) == []
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert load("seven", [source], [header], []) is None
    monkeypatch.delenv("CXX")
    header.write_text("#define SEVEN 7\n")
    monkeypatch.setenv("CXX", str(header))
    header.chmod(0o755)
    assert compiler_version() == str(header)
    monkeypatch.setenv("CXX", "g++ -DQUOTE='")
    load("seven", [source], [header], [])
    monkeypatch.delenv("CXX")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert load("seven", [source], [header], []) is None
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    assert load("seven", [source], [header], []) is None
