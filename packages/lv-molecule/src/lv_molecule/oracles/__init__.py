"""Property functions of molecules and the wrapper that counts their calls."""

from lv_molecule.oracles.base import Oracle, OracleBatch, OracleError, Status
from lv_molecule.oracles.properties import (
    PROPERTIES,
    log_p,
    penalised_logp_normalised,
    penalised_logp_unnormalised,
    qed,
    sa_score,
)

__all__ = [
    "PROPERTIES",
    "Oracle",
    "OracleBatch",
    "OracleError",
    "Status",
    "log_p",
    "penalised_logp_normalised",
    "penalised_logp_unnormalised",
    "qed",
    "sa_score",
]
