"""The models that can be asked for. A new one gets in when a staked node offers it with all its parts."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
import structlog
from sqlalchemy.orm import Session
from sqlmodel import select

from marketplace.domain.catalog import CatalogModel, free_name
from marketplace.domain.errors import NotFound
from marketplace.domain.ports.clock import Clock
from marketplace.services.blobs import MEGABYTE, Blobs, NotAdmitted
from marketplace.services.newcomers import Newcomers
from marketplace.storage.database import Database
from marketplace.storage.tables import ModelRow
from tallystick.models.decoding import load_detokenizer
from tallystick.models.manifest import (
    BYTES_TOKENIZER,
    OPAQUE_TOKENIZER,
    BadManifest,
    Manifest,
    decode_manifest,
    model_id,
)
from tallystick.models.renderer import Prompter, Renderer
from tallystick.models.tokenizer import BadTokenizer, Detokenizer
from tallystick.protocol.frames import ModelOffer
from tallystick.protocol.ids import Address, ModelId, to_bytes32

__all__ = ["Catalog", "CatalogLimits", "NotAdmitted"]

log = structlog.get_logger(__name__)

MAX_TOKENIZER_BYTES: Final = 64 * MEGABYTE
MAX_MODELS: Final = 10_000
SHARE: Final = 4
"""One operator may bring so many parts less than all of the catalog's bytes in a day."""

Fetch = Callable[[bytes, int], Awaitable[bytes]]
"""Return the file with a SHA-256, of at most so many bytes, from the node that offers the model."""


@dataclass(frozen=True, slots=True)
class CatalogLimits:
    """What the catalog takes."""

    most_bytes: int = 256 * MEGABYTE
    """Of all tokenizers together on disk; what reads their ids takes ten to twenty times as much memory."""
    new_per_operator: int = 20
    """Models that one operator may offer in 24 hours; 0: any number."""


USUAL_LIMITS: Final = CatalogLimits()


class Catalog:
    """Made with `await Catalog.open(…)`, which loads what was admitted before."""

    def __init__(
        self,
        database: Database,
        blobs: Path,
        clock: Clock,
        *,
        aliases: Mapping[str, str] | None = None,
        only: Collection[ModelId] | None = None,
        limits: CatalogLimits = USUAL_LIMITS,
    ) -> None:
        """`only` closes the catalog to all other models; None admits any that a staked node offers."""
        self._database = database
        self._blobs = Blobs(blobs, limits.most_bytes)
        self._newcomers = Newcomers(
            clock,
            most_models=limits.new_per_operator,
            most_bytes=max(limits.most_bytes // SHARE, MAX_TOKENIZER_BYTES),
        )
        self._clock = clock
        self._aliases = dict(aliases or {})
        self._only = None if only is None else frozenset(only)
        self._by_id: dict[ModelId, CatalogModel] = {}
        self._by_name: dict[str, CatalogModel] = {}
        self._names: dict[str, ModelId] = {}
        self._readers: dict[str, Detokenizer | None] = {}
        self._admitting = asyncio.Lock()
        self._renderer = Renderer()

    @classmethod
    async def open(
        cls,
        database: Database,
        blobs: Path,
        clock: Clock,
        *,
        aliases: Mapping[str, str] | None = None,
        only: Collection[ModelId] | None = None,
        limits: CatalogLimits = USUAL_LIMITS,
    ) -> "Catalog":
        """Return the catalog with the models of the database; `blobs` is the folder of tokenizers."""
        catalog = cls(database, blobs, clock, aliases=aliases, only=only, limits=limits)
        await catalog._load()
        return catalog

    def close(self) -> None:
        """End what the catalog runs beside this process."""
        self._renderer.close()

    def models(self) -> Sequence[CatalogModel]:
        """Return the models that can be asked for, by name."""
        return [self._by_name[name] for name in sorted(self._by_name)]

    def aliases(self) -> Mapping[str, str]:
        """Return the other names, and what they stand for."""
        return self._aliases

    def by_id(self, wanted: ModelId) -> CatalogModel | None:
        """Return a model by its id."""
        return self._by_id.get(wanted)

    def resolve(self, name: str) -> CatalogModel:
        """Return the model with this name or alias. Raises NotFound."""
        model = self._by_name.get(self._aliases.get(name, name))
        if model is None:
            raise NotFound(
                f"The model `{name}` does not exist. GET /v1/models lists those that do.",
                code="model_not_found",
                param="model",
            )
        return model

    async def admit(self, offer: ModelOffer, fetch: Fetch, operator: Address | None = None) -> CatalogModel:
        """Return the offered model, taken into the catalog if it is new.

        An `operator` brings one at a time, so many a day; None: who is not limited. Raises NotAdmitted for a
        manifest or tokenizer that is not sound or too much, or if the catalog is closed to it; what `fetch`
        raises passes through.
        """
        wanted = ModelId(offer.model_id)
        known = self._by_id.get(wanted)
        if known is not None:
            return known
        async with self._newcomers.turn(operator):
            manifest = self._checked(offer)
            self._newcomers.check(operator)
            # A node takes its time to send a file, and may never do: only its own operator waits for it.
            blob = await self._blob(manifest, fetch)
            async with self._admitting:
                known = self._by_id.get(wanted)
                if known is None:
                    self._newcomers.spend(operator, len(blob))
                    known = await self._try(wanted, manifest, offer.manifest, blob)
                return known

    async def _try(
        self, wanted: ModelId, manifest: Manifest, manifest_bytes: bytes, blob: bytes
    ) -> CatalogModel:
        """Return the model, if it is sound; of one that is not, nothing stays. Raises NotAdmitted."""
        file = self._file(manifest)
        prompts = self._renderer.of(manifest, file)
        try:
            if file is not None:
                self._blobs.check_room(file.name, len(blob))
                await self._blobs.store(file.name, blob)
            await prompts.try_out()  # before this process loads it too, to read ids
            tokenizer = await self._reader(manifest, blob)
            return await self._add(wanted, manifest, manifest_bytes, tokenizer, prompts)
        except (Exception, asyncio.CancelledError) as error:
            # Whatever it was, a tokenizer that no model names must not stay on the disk.
            await prompts.close()
            if file is not None:
                self._blobs.drop(file.name)
            if isinstance(error, BadTokenizer):
                raise NotAdmitted(str(error)) from error
            raise

    def _checked(self, offer: ModelOffer) -> Manifest:
        if model_id(offer.manifest) != offer.model_id:
            raise NotAdmitted(f"the manifest of {offer.name!r} does not have the id that was offered")
        if self._only is not None and offer.model_id not in self._only:
            raise NotAdmitted(f"the catalog of this coordinator is closed to {offer.name!r}")
        if len(self._by_id) >= MAX_MODELS:
            raise NotAdmitted("the catalog is full")
        try:
            return decode_manifest(offer.manifest)
        except BadManifest as error:
            raise NotAdmitted(str(error)) from error

    async def _blob(self, manifest: Manifest, fetch: Fetch) -> bytes:
        """Return the tokenizer's file, from the disk or from who offers it; empty if it has none."""
        path = self._file(manifest)
        if path is None:
            return b""
        stored = await self._blobs.read(path.name)
        return stored or await fetch(bytes.fromhex(path.name), MAX_TOKENIZER_BYTES)

    def _file(self, manifest: Manifest) -> Path | None:
        kind = manifest.tokenizer
        return None if kind in (BYTES_TOKENIZER, OPAQUE_TOKENIZER) else self._blobs.path(kind)

    async def _reader(self, manifest: Manifest, blob: bytes) -> Detokenizer | None:
        """Return what reads the model's ids, None for an opaque one; models that share a file share it too.

        Raises BadTokenizer.
        """
        kind = manifest.tokenizer
        if kind == OPAQUE_TOKENIZER:
            return None
        known = self._readers.get(kind)
        return known or await asyncio.to_thread(load_detokenizer, kind, blob)

    async def _add(
        self,
        wanted: ModelId,
        manifest: Manifest,
        manifest_bytes: bytes,
        tokenizer: Detokenizer | None,
        prompts: Prompter,
    ) -> CatalogModel:
        now = self._clock.now_ms()
        others = {name: known for name, known in self._names.items() if known != wanted}
        name = free_name(manifest.name, wanted, others)
        row = ModelRow(id=wanted, name=name, manifest=manifest_bytes, admitted_at=now)

        def work(session: Session) -> None:
            session.merge(row)

        await self._database.write(work)
        log.info("model_admitted", name=name, model_id=wanted.hex(), numerics=manifest.numerics)
        return self._list(wanted, name, manifest, tokenizer, prompts, now)

    def _list(
        self,
        wanted: ModelId,
        name: str,
        manifest: Manifest,
        tokenizer: Detokenizer | None,
        prompts: Prompter,
        admitted_at_ms: int,
    ) -> CatalogModel:
        model = CatalogModel(wanted, name, manifest, tokenizer, prompts, admitted_at_ms)
        if (file := self._file(manifest)) is not None:
            self._blobs.name(file.name)
        self._readers[manifest.tokenizer] = tokenizer
        self._names[name] = wanted
        self._by_id[wanted] = self._by_name[name] = model
        return model

    async def _load(self) -> None:
        rows = await self._database.read(lambda session: session.scalars(select(ModelRow)).all())
        for row in rows:
            self._names[row.name] = ModelId(row.id)
            try:
                await self._load_one(row)
            except (BadManifest, BadTokenizer, NotAdmitted) as error:
                # It comes back when a node offers it with its tokenizer.
                log.warning("model_not_loaded", name=row.name, reason=str(error))
        await asyncio.to_thread(self._blobs.sweep)

    async def _load_one(self, row: ModelRow) -> None:
        wanted, manifest = ModelId(row.id), decode_manifest(row.manifest)
        file = self._file(manifest)
        if file is not None:
            self._blobs.name(file.name)
        if self._only is not None and wanted not in self._only:
            return
        tokenizer = self._readers.get(manifest.tokenizer)
        if tokenizer is None:
            tokenizer = await self._reader(manifest, await self._blob(manifest, _not_here))
        prompts = self._renderer.of(manifest, file)
        self._list(wanted, row.name, manifest, tokenizer, prompts, row.admitted_at)


async def _not_here(digest: bytes, limit: int) -> bytes:
    raise NotAdmitted(f"the tokenizer {digest.hex()} is not in the folder of blobs")


@dataclass(frozen=True, slots=True)
class AdmittedModel:
    """A model that the books know, whether or not a node serves it now."""

    id: ModelId
    name: str
    numerics: str


def admitted_before(session: Session) -> list[AdmittedModel]:
    """Return the models in the books, by name."""
    rows = session.scalars(select(ModelRow)).all()
    found = [AdmittedModel(ModelId(row.id), row.name, decode_manifest(row.manifest).numerics) for row in rows]
    return sorted(found, key=lambda model: model.name)


def read_catalog_file(path: Path) -> frozenset[ModelId]:
    """Return the models in a file `{"models": ["0x<model id>", "manifest.json", …]}`, paths relative to it.

    Raises ValueError for anything else.
    """
    try:
        entries = msgspec.json.decode(path.read_bytes(), type=dict[str, list[str]])["models"]
        return frozenset(_entry_id(path.parent, entry) for entry in entries)
    except (OSError, KeyError, ValueError) as error:
        raise ValueError(
            f'the catalog file {path} is not {{"models": ["0x<model id>" or manifest file, …]}}: {error}'
        ) from error


def _entry_id(folder: Path, entry: str) -> ModelId:
    if entry.startswith("0x"):
        return ModelId(to_bytes32(entry))
    raw = (folder / entry).read_bytes()
    decode_manifest(raw)
    return model_id(raw)
