"""Deployment settings of the orchestrator, from ACESTEP_ORCHESTRATOR_*."""

import math
from dataclasses import dataclass, field
from pathlib import Path

from acestep_rpc.client_security import ClientSecurity
from acestep_rpc.settings import ServerSettings, SettingsError
from acestep_rpc.tls import ClientTls
from orchestrator.discovery import check_address, cluster_service

PREFIX = "ACESTEP_ORCHESTRATOR_"


@dataclass(frozen=True, kw_only=True)
class Settings(ServerSettings):
    """Either the targets of the three stages, or embedded and a checkpoint. See ServerSettings for the rest."""

    encoder: str = ""
    """Where the encoder stage is: "host:port" or several, separated by commas; "dns:///name:port", all addresses of the name;
    "k8s:///namespace/service:port", the endpoints of a Kubernetes service."""
    diffusion: str = ""
    """Where the diffusion stage is; see encoder."""
    vae: str = ""
    """Where the vae stage is; see encoder."""
    stage_wait_seconds: float = 5.0
    """How long each try of a call waits for a replica of a stage where none takes work, as while the only one restarts. Embedded: unused.
    Where stages are scaled to zero: longer than one takes to start. Higher: songs under way survive a stage that is away for longer, and
    failures show later."""
    scale_ahead_seconds: float = 60.0
    """How far ahead acestep_pool_upcoming_seconds looks: about as long as a new replica takes to start."""
    pod_deletion_cost: bool = False
    """Tell Kubernetes which pods of the stages have the least work, for when it scales down: k8s:/// addresses, and leave to patch pods."""
    embedded: bool = False
    """Run the stages in this process."""
    checkpoint: Path | None = None
    """Embedded: folder in the official layout."""
    device: str = "auto"
    """Embedded: torch device, or auto: CUDA where there is one, else the CPU."""
    dtype: str = "auto"
    """Embedded: float32, bfloat16, or auto: bfloat16 where the device computes it faster."""
    threads: int = 0
    """Embedded: CPU threads; 0: one per core."""
    adapters: Path | None = None
    """Embedded: folder of adapters (LoRA) that requests can name."""
    warm_adapters: tuple[str, ...] = ()
    """Embedded: adapters loaded at the start, separated by commas."""
    data: Path | None = None
    """Folder for jobs, songs and uploads; unset: a temporary one that goes with this process, and its jobs with it."""
    store: str = ""
    """Folder or fsspec URL for songs and uploads, as "s3://bucket/prefix"; empty: in the data folder."""
    database_url: str = field(default="", repr=False)
    """Database of the jobs, as "postgresql://user:password@host/name": orchestrators with the same one, and the same store, share the work.
    Empty: SQLite in the data folder."""
    concurrent_jobs: int = 4
    """Jobs that this server runs at a time; 0: it takes them in and others run them."""
    job_attempts: int = 3
    """Attempts at a job that may end with a vanished server or a failed stage before it is given up."""
    job_lease_seconds: float = 15.0
    """How long a job stays with a server that is not heard of."""
    retention_seconds: float = 30 * 86400.0
    """How long jobs that ended stay, with their songs; 0: until they are deleted."""
    retention_bytes: int = 0
    """Size of a tenant's songs above which its oldest go; 0: no limit."""
    max_requests: int = 64
    """Calls of Generate whose songs are being made; one more is refused. With several replicas of a stage: as many times its own limit."""
    max_backlog_seconds: float = 3600.0
    """A request that is predicted to wait longer for others is refused."""
    snapshot_seconds: float = 5.0
    """Device time of a request between two snapshots of its sampling. Where its replica fails or drains it goes on from the last one, on
    another: so much is computed again at most. 0: none, it begins anew. Embedded: unused, there is no other replica."""
    max_snapshot_bytes: int = 1 << 30
    """Of all snapshots kept in memory, one a request under way; one that does not fit beside the others is not kept."""
    max_queued_jobs: int = 10000
    """Jobs that have not ended, of all servers; one more is refused."""
    max_queued_job_seconds: float = 7 * 86400.0
    """Predicted device time of those jobs above which no further one is taken."""
    webhook_secret: str = field(default="", repr=False)
    """Key for webhooks whose request brings none, "whsec_" and base64."""
    webhook_private_addresses: bool = False
    """Let webhooks lead into private networks."""
    webhook_attempts: int = 12
    """Tries of one webhook before it is dropped: some five hours."""
    webhook_retry_seconds: float = 5.0
    """Wait after the first try of a webhook that failed; it doubles with each, to an hour."""
    authentication: tuple[str, ...] = ()
    """What callers may show, separated by commas: keys (of the file of tenants), jwt (tokens of an identity provider); empty: nobody needs
    to show anything, and all share everything."""
    tenants: Path | None = None
    """File of tenants: digests of their keys, and their limits (docs/security.md). Followed while the server runs."""
    jwt_issuer: str = ""
    """Issuer of tokens, their `iss`."""
    jwt_audience: str = ""
    """Their `aud`."""
    jwt_keys: str = ""
    """URL or file of the issuer's JSON Web Key Set."""
    jwt_tenant_claim: str = "sub"
    """Claim that names the tenant."""
    jwt_leeway_seconds: float = 60.0
    """By how much the issuer's clock may differ."""
    stage_tls_ca: Path | None = None
    """Authorities of the stages' certificates in PEM: they are called over TLS. Followed while the server runs, as the next two."""
    stage_tls_cert: Path | None = None
    """Certificate to show the stages, for mutual TLS."""
    stage_tls_key: Path | None = None
    """Its key."""
    stage_tls_server_name: str = ""
    """Name in the stages' certificates, where it is not that of the targets."""

    def __post_init__(self) -> None:
        self._check_stages()
        self._check_authentication()
        if self.database_url and self.data is None and not self.store:
            raise SettingsError(f"{PREFIX}STORE or {PREFIX}DATA must be set with {PREFIX}DATABASE_URL: songs must last as long as jobs")
        least = {
            "concurrent_jobs": 0,
            "stage_wait_seconds": 0,
            "scale_ahead_seconds": 0,
            "job_attempts": 1,
            "job_lease_seconds": 1,
            "retention_seconds": 0,
            "retention_bytes": 0,
        }
        least |= {
            "snapshot_seconds": 0,
            "max_snapshot_bytes": 0,
            "max_requests": 1,
            "max_backlog_seconds": 0,
            "max_queued_jobs": 0,
            "max_queued_job_seconds": 0,
        }
        for name, minimum in (least | {"webhook_attempts": 1, "webhook_retry_seconds": 0}).items():
            if not getattr(self, name) >= minimum:
                raise SettingsError(f"{PREFIX}{name.upper()} must be at least {minimum}")
        if self.snapshot_seconds == math.inf:
            raise SettingsError(f"{PREFIX}SNAPSHOT_SECONDS must be finite; 0 for no snapshots")

    @property
    def stage_security(self) -> ClientSecurity | None:
        """Of calls to the stages."""
        if self.stage_tls_ca is None:
            return None
        return ClientSecurity(ClientTls(self.stage_tls_ca, self.stage_tls_cert, self.stage_tls_key, self.stage_tls_server_name))

    def _check_authentication(self) -> None:
        if unknown := set(self.authentication) - {"keys", "jwt"}:
            raise SettingsError(f"{PREFIX}AUTHENTICATION can have keys and jwt, not {', '.join(sorted(unknown))}")
        if "keys" in self.authentication and self.tenants is None:
            raise SettingsError(f"{PREFIX}TENANTS must be set when {PREFIX}AUTHENTICATION has keys")
        if self.tenants is not None and not self.authentication:
            raise SettingsError(f"{PREFIX}TENANTS must not be set without {PREFIX}AUTHENTICATION: nobody would have to show a key")
        for name in ("jwt_issuer", "jwt_audience", "jwt_keys"):
            if bool(getattr(self, name)) != ("jwt" in self.authentication):
                must = "must" if "jwt" in self.authentication else "must not"
                raise SettingsError(
                    f"{PREFIX}{name.upper()} {must} be set when {PREFIX}AUTHENTICATION is {','.join(self.authentication)!r}"
                )
        if not self.jwt_leeway_seconds >= 0:
            raise SettingsError(f"{PREFIX}JWT_LEEWAY_SECONDS must be at least 0")

    def _check_stages(self) -> None:
        targets = {"ENCODER": self.encoder, "DIFFUSION": self.diffusion, "VAE": self.vae}
        given = sorted(PREFIX + name for name, target in targets.items() if target)
        missing = sorted(PREFIX + name for name, target in targets.items() if not target)
        if self.embedded:
            if self.checkpoint is None:
                raise SettingsError(f"{PREFIX}CHECKPOINT must be set when {PREFIX}EMBEDDED is true")
            if given:
                raise SettingsError(f"{', '.join(given)} must not be set when {PREFIX}EMBEDDED is true: the stages run in this process")
        elif missing:
            raise SettingsError(f"{', '.join(missing)} must be set unless {PREFIX}EMBEDDED is true")
        if (self.stage_tls_cert is None) != (self.stage_tls_key is None):
            raise SettingsError(f"{PREFIX}STAGE_TLS_CERT and {PREFIX}STAGE_TLS_KEY must be set together")
        for name in ("stage_tls_cert", "stage_tls_server_name", "stage_tls_ca"):
            if getattr(self, name) and (self.embedded or self.stage_tls_ca is None):
                raise SettingsError(f"{PREFIX}{name.upper()} needs stages of their own and {PREFIX}STAGE_TLS_CA")
        if self.pod_deletion_cost and not any(cluster_service(target) for target in targets.values()):
            raise SettingsError(f"{PREFIX}POD_DELETION_COST needs a stage at k8s:///namespace/service:port")
        for name, target in targets.items():
            if target:
                check_address(PREFIX + name, target)
        for name in ("checkpoint", "adapters", "warm_adapters"):
            if not self.embedded and getattr(self, name):
                raise SettingsError(f"{PREFIX}{name.upper()} must not be set unless {PREFIX}EMBEDDED is true: the stages have their own")
