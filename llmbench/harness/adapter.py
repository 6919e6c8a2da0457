"""lm-eval's model `llmbench`: translates its requests and our answers. Importing this registers it.

The arithmetic and the decoding are in `side`. lm-eval's conventions are kept: a context and a
continuation are tokenised together (`TemplateLM`), documents longer than the context are scored in rolling windows,
each token once (`lm_eval.utils.get_rolling_token_windows`), and `until`, `max_gen_toks`, `temperature` come from the
task or `--gen_kwargs`.
"""

import json
import logging
from typing import Any

from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model

from llmbench.checkpoints import chat_template
from llmbench.errors import ConfigError
from llmbench.harness import side

_LOG = logging.getLogger(__name__)

_DEFAULT_DEVICE = "cuda:0"
"""lm-eval's default for --device, on a CPU too; llmbench's `hardware` decides then."""


@register_model("llmbench")
class Llmbench(TemplateLM):  # type: ignore[misc]  # lm-eval has no types
    """LLaMA or LLaDA, decoded by llmbench. See `llmbench.harness.side` for the arguments."""

    def __init__(
        self,
        *,
        batch_size: int | str | None = None,
        max_batch_size: int | None = None,
        device: str | None = None,
        samples: int = side.SAMPLES,
        greedy: bool = True,
        **settings: Any,
    ) -> None:
        super().__init__()
        if batch_size is not None and not str(batch_size).isdigit():
            raise ConfigError(f"--batch_size {batch_size}: give a number")
        settings = ({} if batch_size is None else {"batch": int(batch_size)}) | settings
        if device is not None and device != _DEFAULT_DEVICE:
            settings = {"hardware.device": device} | settings
        self.side = side.build(settings, samples=samples, greedy=greedy)
        self.batch_size = self.side.job.batch

    # ------------------------------------------------------------------------------------------------------------
    # What lm-eval asks of any model

    @property
    def eot_token_id(self) -> int:
        """The token that ends a text."""
        return self.side.end_id

    @property
    def prefix_token_id(self) -> int:
        """What a text without a context is conditioned on."""
        return self.side.start_id

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """Ids of a text; None: as the tokenizer wants it, without a second start token, and a chat as it is."""
        return self.side.tokenize(string, special=add_special_tokens is not False)

    def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """Ids of a context and of its continuation; lm-eval's own method would lose the type `Chat`."""
        if not isinstance(context, side.Chat):
            pair: tuple[list[int], list[int]] = super()._encode_pair(context, continuation)
            return pair
        given = self.tok_encode(side.Chat(context.rstrip()))
        return given, self.tok_encode(side.Chat(context + continuation))[len(given) :]

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """Texts for prompts, request by request with equal settings together."""
        groups: dict[str, list[int]] = {}
        for i, request in enumerate(requests):
            groups.setdefault(json.dumps(request.args[1], sort_keys=True, default=str), []).append(i)
        answers = [""] * len(requests)
        with _progress("llmbench: generating", len(requests), disable_tqdm) as bar:
            for members in groups.values():
                how = self._answering(requests[members[0]].args[1])
                made = self.side.write([requests[i].args[0] for i in members], how, bar.update)
                for i, text in zip(members, made, strict=True):
                    answers[i] = text
                    self.cache_hook.add_partial("generate_until", requests[i].args, text)
        return answers

    def _answering(self, asked: dict[str, Any]) -> side.Answering:
        from lm_eval.models.utils import normalize_gen_kwargs

        canvas = self.side.job.model.decoder.canvas
        given: dict[str, Any] = dict(normalize_gen_kwargs(asked, default_max_gen_toks=canvas))
        most = given.pop("max_gen_toks")
        if most > canvas:
            _LOG.warning(
                "the task allows %d tokens, canvas is %d: answers end there; raise canvas to allow more", most, canvas
            )
        given.pop("do_sample", None)
        return side.Answering(
            until=tuple(given.pop("until", ())),
            most_tokens=most,
            temperature=float(given.pop("temperature", 0.0) or 0.0),
            others=tuple(sorted(given.items())),
        )

    def _loglikelihood_tokens(
        self,
        requests: list[tuple[tuple[str, str], list[int], list[int]]],
        disable_tqdm: bool = False,
        **kwargs: Any,
    ) -> list[tuple[float, bool]]:
        with _progress("llmbench: log-likelihood", len(requests), disable_tqdm) as bar:
            scores = self.side.score([(context, rest) for _, context, rest in requests], bar.update)
        for (texts, _, _), score in zip(requests, scores, strict=True):
            self.cache_hook.add_partial("loglikelihood", texts, score)
        return scores

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        """Log-likelihood of whole documents; see the module docstring. Minus the sum of bounds for diffusion."""
        from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

        pairs: list[tuple[list[int], list[int]]] = []
        owners: list[int] = []
        for i, request in enumerate(requests):
            windows = get_rolling_token_windows(
                token_list=self.tok_encode(request.args[0], add_special_tokens=False),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.side.context - 1,  # a diffusion model also reads the last token
                context_len=1,
            )
            own = [make_disjoint_window(window) for window in windows]
            pairs += own
            owners += [i] * len(own)
        totals = [0.0] * len(requests)
        with _progress("llmbench: rolling log-likelihood", len(pairs), disable_tqdm) as bar:
            for owner, (score, _) in zip(owners, self.side.score(pairs, bar.update), strict=True):
                totals[owner] += score
        for request, value in zip(requests, totals, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, value)
        return totals

    # ------------------------------------------------------------------------------------------------------------
    # Chats and provenance

    @property
    def tokenizer(self) -> Any:
        """For lm-eval's choice of a chat template."""
        return self.side.checkpoint.files.tokenizer

    @property
    def tokenizer_name(self) -> str:
        """Names lm-eval's cache of requests."""
        files = self.side.checkpoint.files
        return f"{files.name}@{files.digest}".replace("/", "__")

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> side.Chat:
        """A chat rendered by the checkpoint's template, with `--apply_chat_template`.

        Raises:
            ConfigError: it has none.
            CheckpointError: it fails, or writes nothing.
        """
        files = self.side.checkpoint.files
        if not files.has_chat_template:
            raise ConfigError(f"checkpoint {files.name} has no chat template; leave out --apply_chat_template")
        return side.Chat(chat_template.render(self.tokenizer, chat_history, files.name, answer=add_generation_prompt))

    def get_model_info(self) -> dict[str, Any]:
        """What lm-eval stores with its results."""
        return self.side.about()


def _progress(what: str, total: int, silent: bool) -> Any:
    from tqdm import tqdm

    return tqdm(total=total, desc=what, disable=silent)
