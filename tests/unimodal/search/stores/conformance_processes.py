"""What every store must do when several processes use it, or one is killed."""

from __future__ import annotations

import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from tests.unimodal.search.stores.store_case import (
    MODEL,
    StoreCase,
    column,
    everything,
    quiet,
)
from unimodal.search.stores.copy import copy_store
from unimodal.search.stores.open import create_store, open_store, store_exists

WRITER = """
import sys
import numpy as np, pyarrow as pa
from unimodal.search.stores.open import open_store
store = open_store(sys.argv[1])
vector = np.eye(1, store.schema.dim, dtype=np.float32)[0]
for batch in range(int(sys.argv[2])):
    ids = [f"{batch}-{n}" for n in range(20)]
    rows = pa.table({"id": ids, "vector_text": [vector] * 20})
    store.upsert(rows, fingerprint=store.schema.fingerprint)
    print(batch, flush=True)
"""


class ProcessConformance(StoreCase):
    """Stores that are opened again, created again, copied, or killed."""

    def test_a_store_that_another_made_anew_is_known_by_its_new_model(
        self, tmp_path: Path
    ) -> None:
        url = self.url(tmp_path)
        store = create_store(url, self.schema())
        store.upsert(
            pa.table({"id": ["a"], "vector_text": column(self.queries[:1])}),
            fingerprint=MODEL,
        )
        replacement = create_store(
            url, replace(self.schema(), fingerprint="other"), overwrite=True
        )
        replacement.upsert(
            pa.table({"id": ["b"], "vector_text": column(self.queries[:1])}),
            fingerprint="other",
        )
        with pytest.raises(ValueError, match="the store holds vectors of"):
            store.search(self.queries, 1, fingerprint=MODEL, vector="text")
        with pytest.raises(ValueError, match="the store holds vectors of"):
            store.upsert(
                pa.table({"id": ["c"], "vector_text": column(self.queries[:1])}),
                fingerprint=MODEL,
            )
        assert (
            store.search(self.queries[:1], 2, fingerprint="other", vector="text")[0][
                0
            ].id
            == "b"
        )
        assert store.count() == 1
        store.close()
        replacement.close()

    def test_a_store_is_not_copied_over_itself(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        url = self.url(tmp_path)
        store = create_store(url, self.schema())
        store.upsert(
            pa.table({"id": ["a"], "vector_text": column(self.queries[:1])}),
            fingerprint=MODEL,
        )
        monkeypatch.chdir(tmp_path)
        for spelled in (
            url,
            f"{url.partition('://')[0]}://{tmp_path}/../{tmp_path.name}/{Path(url).name}",
        ):
            with pytest.raises(
                ValueError, match="is the store that is copied; choose another place"
            ):
                copy_store(store, spelled, overwrite=True)
        assert store.count() == 1
        store.close()

    def test_a_store_opened_again_is_the_same(self, tmp_path: Path) -> None:
        url = self.url(tmp_path)
        assert not store_exists(url)
        schema = self.schema(
            fields={"price": "float", "tags": "strings"},
            thumbnails=True,
            about={"model": "größer"},
        )
        store = create_store(url, schema)
        store.upsert(self.ten_rows(), fingerprint=MODEL)
        rows = everything(store)
        store.close()
        assert store_exists(url)
        with pytest.raises(ValueError, match="already holds a store"):
            create_store(url, schema)
        store = open_store(url)
        assert store.schema == schema
        assert everything(store) == rows
        store.close()
        store = create_store(url, self.schema(), overwrite=True)
        assert store.count() == 0
        assert store.schema == self.schema()
        store.close()

    def test_kill_9_loses_nothing_that_an_upsert_returned_for(
        self, tmp_path: Path
    ) -> None:
        url = self.url(tmp_path)
        create_store(url, self.schema()).close()
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, url, "100000"],
            stdout=subprocess.PIPE,
            text=True,
            env=quiet(),
        ) as writer:
            assert writer.stdout is not None
            acknowledged = [next(writer.stdout) for _ in range(6)]
            writer.send_signal(signal.SIGKILL)
            acknowledged += writer.stdout.readlines()
        store = open_store(url)
        ids = {row["id"] for row in everything(store, columns=["id"])}
        assert ids >= {f"{int(batch)}-{n}" for batch in acknowledged for n in range(20)}
        assert (
            store.count() == len(ids) == 20 * len({id.partition("-")[0] for id in ids})
        )  # a batch is in or not
        store.build()
        assert store.count() == len(ids)
        store.close()

    def test_a_second_process_writes_beside_this_one_or_is_refused_in_words(
        self, tmp_path: Path
    ) -> None:
        url = self.url(tmp_path)
        store = create_store(url, self.schema())
        second = subprocess.run(
            [sys.executable, "-c", WRITER, url, "3"],
            capture_output=True,
            text=True,
            env=quiet(),
            check=False,
        )
        if "multiwriter" in self.capabilities:
            assert second.returncode == 0, second.stderr
            assert store.count() == 60
        else:
            assert "another process" in second.stderr.splitlines()[-1]
            assert second.returncode == 1
            assert store.count() == 0
        store.close()
