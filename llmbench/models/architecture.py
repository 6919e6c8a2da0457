"""How much work is a forward pass at least? Shapes of a Llama-style Transformer, FLOPs, and bytes that must move.

These are the lower bounds of the roofline (`roofline/limit_ms`): a real forward does more. So whatever a perfect
implementation could avoid is left out, and the limit errs on the fast side:

- FLOPs: matrix products only, two per multiply-add. Norms, rotary embedding, softmax and activation functions are not
  counted. A causal query is charged for the keys that it may see; a causal mask that is computed and thrown away is
  not work, and neither is padding. In the last block, only keys and values are needed at positions whose logits nobody
  asks for.
- Bytes: every weight of the blocks once per forward however many rows share it, as wide as it is stored (a quantized
  matrix in its 8 or 4 bits, although an engine may widen it in memory first); of the embedding table only the rows
  that are looked up (none beyond the head's own read when head and embedding are one table); the head once if any
  logits are asked for; of the key-value cache one read of what was there and one write of what is new (of a
  bidirectional model where a forward has more keys than queries, and so reads a cache). Activations, logits included,
  may stay on chip and are not counted.

Pure arithmetic, no torch.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llmbench.config import modes
from llmbench.config.modes import Mode
from llmbench.record import ForwardShape

if TYPE_CHECKING:
    from llmbench.config.job import Quantization


BLOCK = 64
"""Consecutive weights of a row that share a scale when they are quantized."""


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """Shapes of a Llama-style Transformer: grouped-query attention, gated feed-forward."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    vocab: int
    tied: bool  # the head is the embedding table
    causal: bool  # False: every position sees every other, and a cache is a decoder's option
    bytes_per_element: int
    more_vectors: int = 0  # elements of a block's biases, and of norms beyond the two that every block has
    matrix_bytes: float | None = None  # per element of a block's matrices, when they are quantized

    @property
    def block_matrices(self) -> int:
        """Elements of one block's matrices: query and output, key and value, three of the feed-forward."""
        attention = 2 * self.hidden * self.heads * self.head_dim + 2 * self.hidden * self.kv_heads * self.head_dim
        return attention + 3 * self.hidden * self.ffn

    @property
    def block_parameters(self) -> int:
        """Parameters of one block: matrices, two norms, and what `more_vectors` says."""
        return self.block_matrices + 2 * self.hidden + self.more_vectors

    @property
    def parameters(self) -> int:
        """All parameters; a tied table counts once."""
        tables = self.vocab * self.hidden * (1 if self.tied else 2)
        return tables + self.layers * self.block_parameters + self.hidden

    @property
    def block_bytes(self) -> float:
        """What one block's parameters take."""
        width = self.bytes_per_element if self.matrix_bytes is None else self.matrix_bytes
        return self.block_matrices * width + (self.block_parameters - self.block_matrices) * self.bytes_per_element

    @property
    def weight_bytes(self) -> int:
        """What all parameters take."""
        rest = self.parameters - self.layers * self.block_parameters
        return round(self.layers * self.block_bytes) + rest * self.bytes_per_element

    @property
    def kv_bytes_per_token(self) -> int:
        """What one more token adds to the key-value cache of a row; 0 for a model that caches nothing."""
        return self.kv_bytes_per_position if self.causal else 0

    @property
    def kv_bytes_per_position(self) -> int:
        """Keys and values of one position in all layers."""
        return 2 * self.layers * self.kv_heads * self.head_dim * self.bytes_per_element


def stored_bytes(kind: "Quantization") -> float:
    """Bytes of one quantized weight with its share of a float32 scale."""
    return {"int8": 8, "nf4": 4}[kind] / 8 + 4 / BLOCK


def head_dim(config: Any) -> int:
    """Channels of one head of a Transformers configuration."""
    width: int = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return width


def from_config(
    config: Any, bytes_per_element: int, quantized: "Quantization | None" = None, mode: Mode | None = None
) -> Architecture:
    """Read the shapes from a Transformers configuration of one of the kinds in `llama.BLOCKS`.

    Args:
        config: the configuration.
        bytes_per_element: of a weight that is not quantized.
        quantized: how the blocks' matrices are stored.
        mode: in which it is decoded; None: its only one, or the autoregressive one.
    """
    mode = mode or modes.first(config)
    width = head_dim(config)
    queries, keys = config.num_attention_heads * width, config.num_key_value_heads * width
    biases = {"attention_bias": queries + 2 * keys + config.hidden_size,
              "mlp_bias": 2 * config.intermediate_size + config.hidden_size}  # fmt: skip
    always = {"qwen2": queries + 2 * keys, "qwen3": 2 * width}  # biases of q, k and v; norms of q and k
    return Architecture(
        layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        heads=config.num_attention_heads,
        kv_heads=config.num_key_value_heads,
        head_dim=width,
        more_vectors=always.get(config.model_type, 0)
        + sum(size for key, size in biases.items() if getattr(config, key, False)),
        ffn=config.intermediate_size,
        vocab=config.vocab_size,
        tied=config.tie_word_embeddings,
        causal=mode.attention == "causal",
        bytes_per_element=bytes_per_element,
        matrix_bytes=stored_bytes(quantized) if quantized else None,
    )


def flops(architecture: Architecture, shape: ForwardShape) -> float:
    """Floating-point operations of one forward: projections and feed-forward, attention scores and sums, head."""
    block = architecture.block_matrices
    keys_values = 2 * architecture.hidden * architecture.kv_heads * architecture.head_dim
    full = architecture.layers - 1
    queries, keys = _real(shape)
    matrices = queries * (full * block + keys_values) + shape.logits * (block - keys_values)
    causal = architecture.causal if shape.causal is None else shape.causal
    pairs = full * _pairs(queries, keys, causal=causal) + _pairs(shape.logits, keys, causal=causal)
    attention = 2 * pairs * architecture.heads * architecture.head_dim
    head = shape.logits * architecture.hidden * architecture.vocab
    return 2.0 * shape.rows * (matrices + attention + head)


def _real(shape: ForwardShape) -> tuple[float, float]:
    """Mean queries and keys of a row that are text. Pairs of means are no more than the mean of pairs (Jensen)."""
    padding = shape.padding / shape.rows
    return shape.queries - (padding if shape.queries == shape.keys else 0), shape.keys - padding


def _pairs(queries: float, keys: float, *, causal: bool) -> float:
    """Pairs of a query and a key that it sees; causal queries are the last ones: all keys, one less, ..."""
    return queries * keys - (queries * (queries - 1) / 2 if causal else 0)


def bytes_moved(architecture: Architecture, shape: ForwardShape) -> float:
    """Bytes that one forward must read and write: weights, looked-up embeddings, head, key-value cache."""
    table = architecture.vocab * architecture.hidden
    blocks = architecture.layers * architecture.block_bytes + architecture.hidden * architecture.bytes_per_element
    head = table if shape.logits else 0
    queries, keys = _real(shape)
    rows_read = 0 if architecture.tied and head else min(shape.rows * queries, architecture.vocab)
    weights = blocks + (head + rows_read * architecture.hidden) * architecture.bytes_per_element
    # read: what was there before these queries; written: the queries' own
    kept = architecture.causal or shape.causal or shape.keys > shape.queries
    return float(weights + (shape.rows * keys * architecture.kv_bytes_per_position if kept else 0))
