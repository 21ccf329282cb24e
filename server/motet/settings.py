"""Every setting of the server: one frozen class, one environment variable and help text each."""

import difflib
import ipaddress
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ByteSize,
    Field,
    SecretStr,
    ValidationError,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from motet.errors import InvalidSetting

ENV_PREFIX = "MOTET_"
CLIENT_VARIABLES = frozenset({"MOTET_API_KEY", "MOTET_URL"})
"""Read by the commands that talk to a server: no settings, and no typing errors either."""
KERNEL_VARIABLES = frozenset({"MOTET_KERNEL_CACHE"})
"""Read by motet_kernels, which is of use without a server."""

MIB = 1024**2
GIB = 1024**3


def _positive(value: int) -> int:
    if value <= 0:
        raise ValueError("must be a positive number of bytes, such as 268435456 or 256MiB")
    return value


def _no_bool(value: object) -> object:
    """ByteSize would take True for one byte."""
    if isinstance(value, bool):
        raise ValueError("must be a number of bytes, such as 268435456 or 256MiB")
    return value


Bytes = Annotated[ByteSize, BeforeValidator(_no_bool), AfterValidator(_positive)]
Count = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(gt=0, le=3600)]


class _KnownEnvironment(EnvSettingsSource):
    """Reads MOTET_* and refuses a name that is no setting: a typo must not become a default."""

    def __call__(self) -> dict[str, Any]:
        known = {env_name(field) for field in self.settings_cls.model_fields}
        known |= CLIENT_VARIABLES | KERNEL_VARIABLES
        for name in sorted(self.env_vars):
            if name.upper().startswith(ENV_PREFIX) and name.upper() not in known:
                raise InvalidSetting(_unknown(name.upper(), known), "unknown_setting", name.upper())
        return super().__call__()


class Settings(BaseSettings):
    """What a server needs to know before it starts. Flags win over MOTET_* variables, those win
    over the defaults. A variable set to the empty string counts as not set."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX, env_ignore_empty=True, extra="forbid", frozen=True
    )

    base: str | None = Field(
        None, description="Base model: a directory, a GGUF file or a hub id. Unset: the demo base."
    )
    served_model_name: str | None = Field(
        None,
        min_length=1,
        max_length=256,
        description="Name of the base model in requests. Unset: taken from the base.",
    )
    data_dir: Path = Field(
        Path("motet-data"), description="The one writable directory: store, tenants, base cache."
    )
    database_url: SecretStr | None = Field(
        None,
        min_length=1,
        description="PostgreSQL for adapters and tenants, for several servers over one store. "
        "Unset: a file in the data directory.",
    )

    blob_url: str | None = Field(
        None,
        min_length=1,
        description="Where several servers share the uploaded files, such as s3://bucket/prefix. "
        "Unset: the data directory alone has them.",
    )
    import_prefixes: str | None = Field(
        None,
        min_length=1,
        description="URLs, separated by commas, from below which the operator may import adapters, "
        "such as s3://bucket/trained or file:///srv/adapters. Unset: none.",
    )

    host: str = Field("127.0.0.1", min_length=1, description="Address to listen on.")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    admin_key: SecretStr | None = Field(
        None, min_length=16, description="Key that opens /admin and, from afar, /metrics."
    )
    admin_port: int | None = Field(
        None,
        ge=1,
        le=65535,
        description="Port for /admin and /metrics, which are then there alone. Unset: the one of "
        "all.",
    )
    admin_host: str = Field(
        "127.0.0.1", min_length=1, description="Address to listen on at admin_port."
    )
    drain_timeout_s: Seconds = Field(
        30.0, description="Seconds running requests get to finish after SIGTERM."
    )
    client_timeout_s: Seconds = Field(
        30.0, description="Seconds a client may stall while sending a body or reading a stream."
    )
    log_format: Literal["text", "json"] = Field("text", description="Form of the log lines.")

    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="Where the model runs.")
    dtype: Literal["bfloat16", "float32"] = Field("bfloat16", description="Compute dtype.")
    double_quant: bool = Field(False, description="Quantise NF4's block scales too (smaller).")
    threads: Count | None = Field(
        None, description="CPU threads of the engine. Unset: the cores the process may use."
    )

    cpu_kernels: Literal[
        "auto", "amx-bf16", "avx512-bf16", "avx512", "avx2", "portable", "torch"
    ] = Field(
        "auto",
        description="Which kernels compute on the CPU: the best that runs here, one level of "
        "instructions, or torch's.",
    )
    fast_math: bool = Field(
        False,
        description="On CUDA: other kernels for few rows and for many, with which an answer's bits "
        "depend on what else is in the batch. On a CPU with AVX512-VNNI: inputs of the base's "
        "linears rounded to 8 bits.",
    )

    kv_cache_bytes: Bytes | None = Field(
        None, description="Memory of the paged KV cache. Unset: derived from what is free."
    )
    block_size: int = Field(16, ge=1, le=256, description="Tokens in one block of the KV cache.")
    max_num_seqs: Count = Field(64, description="Most sequences in one forward pass.")
    max_batch_tokens: Count = Field(512, description="Most tokens in one forward pass.")
    chunk_len: Count = Field(128, description="Tokens of a prompt computed at a time.")
    prefix_cache: Literal["off", "tenant"] = Field(
        "tenant",
        description="Compute what a tenant's prompts begin with alike once; off: each time.",
    )
    max_model_len: Count | None = Field(
        None, description="Longest prompt plus answer, in tokens. Unset: the model's own limit."
    )
    max_waiting: Count = Field(1024, description="Most sequences waiting for a place.")

    adapter_device_bytes: Bytes = Field(
        ByteSize(512 * MIB), description="Memory for adapters where the model runs."
    )
    adapter_host_bytes: Bytes = Field(
        ByteSize(GIB), description="Host memory for adapters waiting behind the device."
    )
    max_adapter_slots: Count = Field(64, description="Most adapters on the device at once.")
    max_adapter_rank: Count = Field(256, description="Largest rank an uploaded adapter may have.")
    max_adapter_versions: Count = Field(
        10, description="Versions kept of one adapter; the oldest leave when new ones come."
    )
    max_upload_bytes: Bytes = Field(
        ByteSize(512 * MIB), description="Largest adapter upload, all its files together."
    )
    scrub_bytes_per_s: Bytes = Field(
        ByteSize(16 * MIB), description="Most the background check of stored adapters reads."
    )
    max_uploads: Count = Field(
        8, description="Most uploads being received at once; of one tenant, three quarters of them."
    )

    tenant_max_adapters: Count | None = Field(
        None, description="Most adapters of one tenant. These limits hold where none is set for it."
    )
    tenant_max_bytes: Bytes | None = Field(
        None, description="Most bytes of one tenant's adapters, all versions together."
    )
    tenant_requests_per_minute: Count | None = Field(
        None, description="Most requests of one tenant in a minute, on this server."
    )
    tenant_tokens_per_minute: Count | None = Field(
        None, description="Most tokens of one tenant in a minute, prompts and answers."
    )
    tenant_max_concurrent: Count | None = Field(
        None, description="Most requests for text of one tenant at the same time."
    )

    max_body_bytes: Bytes = Field(ByteSize(4 * MIB), description="Largest JSON request body.")
    max_json_depth: int = Field(
        64, ge=8, le=128, description="Deepest nesting of a JSON request body."
    )
    max_prompts: Count = Field(128, description="Most prompts in one completion request.")
    max_messages: Count = Field(2048, description="Most messages in one chat request.")
    max_n: Count = Field(16, description="Most choices (n) for one prompt.")
    max_stop: Count = Field(4, description="Most stop strings in one request.")
    max_stop_chars: Count = Field(256, description="Longest stop string, in characters.")
    max_stop_token_ids: Count = Field(64, description="Most stop token ids in one request.")
    max_logprobs: int = Field(20, ge=0, description="Most alternatives returned per token.")
    max_logit_bias: int = Field(1024, ge=0, description="Most entries of logit_bias.")

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        least = self.max_num_seqs + self.chunk_len
        if self.max_batch_tokens < least:
            raise ValueError(
                f"max_batch_tokens ({self.max_batch_tokens}) must be at least max_num_seqs + "
                f"chunk_len ({least}), or running sequences could keep every prompt out; raise it "
                "or lower one of the others"
            )
        if self.admin_port is not None and self.admin_port == self.port:
            raise ValueError(
                f"admin_port ({self.admin_port}) must be another one than port, or be unset"
            )
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, _KnownEnvironment(settings_cls)

    @classmethod
    def load(cls, flags: Mapping[str, Any] | None = None) -> Self:
        """Settings from `flags` (None values are "not given") over the environment.

        Raises InvalidSetting, one line per wrong setting, instead of pydantic's report.
        """
        given = {name: value for name, value in (flags or {}).items() if value is not None}
        try:
            return cls(**given)
        except ValidationError as error:
            raise InvalidSetting(_sentences(error, cls), "invalid_setting") from None

    @property
    def loopback(self) -> bool:
        """Whether `host` can only be reached from this machine."""
        return is_loopback(self.host)


def env_name(field: str) -> str:
    """The environment variable of a setting."""
    return f"{ENV_PREFIX}{field.upper()}"


def is_loopback(host: str) -> bool:
    """True for localhost and for addresses of the loopback interface."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _unknown(name: str, known: set[str]) -> str:
    nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
    return f"{name} is not a setting; did you mean {nearest[0]}? Unset it or correct the name."


def _sentences(error: ValidationError, cls: type[Settings]) -> str:
    known = {env_name(field) for field in cls.model_fields}
    return "\n".join(_sentence(detail["loc"], detail["msg"], known) for detail in error.errors())


def _sentence(loc: tuple[int | str, ...], message: str, known: set[str]) -> str:
    if not loc:
        return message.removeprefix("Value error, ")
    name = env_name(str(loc[0]))
    if name not in known:
        return _unknown(name, known)
    return f"{name}: {message.removeprefix('Value error, ')}"
