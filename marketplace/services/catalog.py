"""The models that can be asked for. A new one gets in when a staked node offers it with all its parts."""

import asyncio
import os
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import msgspec
import structlog
from sqlalchemy.orm import Session
from sqlmodel import select

from marketplace.domain.catalog import CatalogModel, free_name
from marketplace.domain.errors import NotFound, Refused
from marketplace.domain.ports.clock import Clock
from marketplace.storage.database import Database
from marketplace.storage.failpoints import reach
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
from tallystick.protocol.ids import ModelId, to_bytes32

log = structlog.get_logger(__name__)

MAX_TOKENIZER_BYTES = 64 * 1024 * 1024
MAX_MODELS = 10_000

Fetch = Callable[[bytes, int], Awaitable[bytes]]
"""Return the file with a SHA-256, of at most so many bytes, from the node that offers the model."""


class NotAdmitted(Refused):
    """The model does not come into the catalog."""

    code = "model_not_admitted"


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
    ) -> None:
        """`only` closes the catalog to all other models; None admits any that a staked node offers."""
        self._database = database
        self._blobs = blobs
        self._clock = clock
        self._aliases = dict(aliases or {})
        self._only = None if only is None else frozenset(only)
        self._by_id: dict[ModelId, CatalogModel] = {}
        self._by_name: dict[str, CatalogModel] = {}
        self._names: dict[str, ModelId] = {}
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
    ) -> "Catalog":
        """Return the catalog with the models of the database; `blobs` is the folder of tokenizers."""
        catalog = cls(database, blobs, clock, aliases=aliases, only=only)
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

    async def admit(self, offer: ModelOffer, fetch: Fetch) -> CatalogModel:
        """Return the offered model, taken into the catalog if it is new.

        Raises NotAdmitted for a manifest or tokenizer that is not sound, or if the catalog is closed to it;
        what `fetch` raises passes through.
        """
        known = self._by_id.get(ModelId(offer.model_id))
        if known is not None:
            return known
        async with self._admitting:
            known = self._by_id.get(ModelId(offer.model_id))
            if known is not None:
                return known
            manifest = self._checked(offer)
            blob = await self._blob(manifest, fetch)
            prompts = self._renderer.of(manifest, self._file(manifest))
            try:
                await prompts.try_out()  # before this process loads it too, to read ids
                tokenizer = await _loaded(manifest, blob)
            except (BadTokenizer, NotAdmitted) as error:
                await prompts.close()
                raise NotAdmitted(str(error)) from error
            return await self._add(ModelId(offer.model_id), manifest, offer.manifest, tokenizer, prompts)

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
        """Return the tokenizer's file, which is stored from now on; empty if it has none."""
        path = self._file(manifest)
        if path is None:
            return b""
        blob = await asyncio.to_thread(_read, path, path.name)
        if not blob:
            blob = await fetch(bytes.fromhex(path.name), MAX_TOKENIZER_BYTES)
            await asyncio.to_thread(_store, path, blob)
        return blob

    def _file(self, manifest: Manifest) -> Path | None:
        kind = manifest.tokenizer
        return None if kind in (BYTES_TOKENIZER, OPAQUE_TOKENIZER) else self._blobs / kind

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
        self._names[name] = wanted
        self._by_id[wanted] = self._by_name[name] = model
        return model

    async def _load(self) -> None:
        rows = await self._database.read(lambda session: session.scalars(select(ModelRow)).all())
        for row in rows:
            wanted = ModelId(row.id)
            self._names[row.name] = wanted
            if self._only is not None and wanted not in self._only:
                continue
            try:
                manifest = decode_manifest(row.manifest)
                tokenizer = await _loaded(manifest, await self._blob(manifest, _not_here))
            except (BadManifest, NotAdmitted) as error:
                # It comes back when a node offers it with its tokenizer.
                log.warning("model_not_loaded", name=row.name, reason=str(error))
                continue
            prompts = self._renderer.of(manifest, self._file(manifest))
            self._list(wanted, row.name, manifest, tokenizer, prompts, row.admitted_at)


async def _loaded(manifest: Manifest, blob: bytes) -> Detokenizer | None:
    """Return what reads the model's ids, None for an opaque one. Raises NotAdmitted."""
    if manifest.tokenizer == OPAQUE_TOKENIZER:
        return None
    try:
        return await asyncio.to_thread(load_detokenizer, manifest.tokenizer, blob)
    except BadTokenizer as error:
        raise NotAdmitted(str(error)) from error


async def _not_here(digest: bytes, limit: int) -> bytes:
    raise NotAdmitted(f"the tokenizer {digest.hex()} is not in the folder of blobs")


def _read(path: Path, kind: str) -> bytes:
    """Return the stored file, empty if it is missing or damaged."""
    try:
        blob = path.read_bytes()
    except FileNotFoundError:
        return b""
    return blob if sha256(blob).hexdigest() == kind else b""


def _store(path: Path, blob: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_suffix(f".{os.getpid()}.part")
    half.write_bytes(blob)
    reach("catalog.file_staged")
    half.replace(path)
    reach("catalog.file_stored")


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
