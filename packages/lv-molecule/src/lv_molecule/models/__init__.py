"""Models of molecules as token sequences."""

from lv_molecule.models.joint import Losses, MoleculeModel
from lv_molecule.models.lstm import LstmDecoder, PackedTokens

__all__ = ["Losses", "LstmDecoder", "MoleculeModel", "PackedTokens"]
