"""Makes `hydra/sweeper=llmbench`, `${results:}` and `${cards:}` known.

Hydra accepts sweepers only from the package `hydra_plugins`.
Hydra imports this file at every start, so it imports nothing heavy; the work is in `llmbench.sweeps.run`.
"""

from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.plugins.sweeper import Sweeper
from omegaconf import OmegaConf

from llmbench.system.paths import results

OmegaConf.register_new_resolver("results", lambda: str(results()), replace=True)


def _cards() -> int:
    """GPUs that this process may use, at least one worker."""
    from llmbench.measure.cards import visible_cards

    return max(len(visible_cards()), 1)


OmegaConf.register_new_resolver("cards", _cards, replace=True)


@dataclass
class LlmbenchSweeperConf:
    """What `hydra.sweeper.*` may say; `params` as in Hydra's basic sweeper."""

    _target_: str = "hydra_plugins.llmbench_sweeper.LlmbenchSweeper"
    params: dict[str, str] | None = field(default_factory=dict)


ConfigStore.instance().store(group="hydra/sweeper", name="llmbench", node=LlmbenchSweeperConf, provider="llmbench")


class LlmbenchSweeper(Sweeper):
    """Plans the whole grid before the first job; see `llmbench.sweeps.run.sweep`."""

    def __init__(self, params: dict[str, str] | None = None) -> None:
        super().__init__()
        self.params = dict(params or {})

    def setup(self, *, hydra_context: Any, task_function: Any, config: Any) -> None:
        """Keep what Hydra hands over and make the launcher that will run the jobs."""
        from hydra.core.plugins import Plugins

        self.config_loader = hydra_context.config_loader
        self.config = config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> Any:
        """Run the grid that `arguments` and `params` span."""
        from llmbench.sweeps.run import sweep

        recipe = [f"{key}={value}" for key, value in self.params.items()]
        return sweep([*recipe, *arguments], self.config_loader, self.config, self.launcher)
