"""What LoHa's and LoKr's configs say alike: rank and alpha, with patterns of both."""

from dataclasses import dataclass

from motet_adapters.config_fields import Fields
from motet_adapters.families.product_sites import MAX_ALPHA
from motet_adapters.limits import Limits
from motet_adapters.patterns import Pattern

LYCORIS_SERVED = {"r", "alpha", "rank_pattern", "alpha_pattern"}
LYCORIS_HARMLESS = {"rank_dropout", "module_dropout", "use_effective_conv2d"}


@dataclass(frozen=True)
class LycorisSettings:
    rank: int
    alpha: float
    rank_pattern: Pattern[int]
    alpha_pattern: Pattern[float]

    def rank_of(self, module: str) -> int:
        return self.rank_pattern.find(module, self.rank)

    def scale_of(self, module: str) -> float:
        """alpha / r."""
        return self.alpha_pattern.find(module, self.alpha) / self.rank_of(module)


def lycoris(fields: Fields, limits: Limits) -> LycorisSettings:
    """Raises AdapterRefused, with the key at fault as `param`."""

    def rank(value: object, param: str) -> int:
        return fields.integer(value, param, 1, limits.max_rank)

    def alpha(value: object, param: str) -> float:
        return fields.positive(value, param, MAX_ALPHA)

    return LycorisSettings(
        rank(fields.get("r", 8), "r"),
        alpha(fields.get("alpha", 8), "alpha"),
        fields.pattern("rank_pattern", rank),
        fields.pattern("alpha_pattern", alpha),
    )
