"""One new token per sequence on a CPU: there the host knows the position, and waits for nobody when it looks.

So only the positions so far are read, and what all layers share is computed once per step. In `kernels` the same
functions never look, because on a GPU a step is captured once and replayed at every position.

At batch 1 an operation costs more than its arithmetic, a product with a small matrix included. So a position's
rotation is a matrix [D, D], and the query and key heads are rotated by one product.
"""

import torch
from torch.nn.functional import scaled_dot_product_attention


class OneToken:
    """`kernels.attend_one` of one step on a CPU: a function of a layer's queries, keys and values, and its cache."""

    def __init__(
        self,
        cos: torch.Tensor,
        sin: torch.Tensor,
        position: torch.Tensor,
        first: torch.Tensor | None,
        dtype: torch.dtype,
    ) -> None:
        """Arguments as in `kernels.attend_one`; `dtype` is that of queries, keys and values."""
        self._position = int(position)
        self._rotation = _rotation(cos[self._position], sin[self._position])
        self._bias: torch.Tensor | None = None
        if first is not None:
            visible = torch.arange(self._position + 1) >= first[:, None]
            self._bias = torch.zeros(visible.shape, dtype=dtype).masked_fill_(~visible, float("-inf"))[:, None, None]

    def __call__(self, qkv: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        """Rotate, append, attend; arguments and result as in `kernels.attend_one`."""
        batch, groups, _, width = keys.shape
        split = qkv.view(batch, -1, width)
        heads = split.shape[1] - 2 * groups
        rotated = (split.to(self._rotation.dtype) @ self._rotation).to(qkv.dtype)  # values too: one product
        keys.select(2, self._position).copy_(rotated[:, heads : heads + groups])
        values.select(2, self._position).copy_(split[:, heads + groups :])
        mixed = scaled_dot_product_attention(
            rotated[:, :heads].view(batch, groups, -1, width),  # the heads of a group as queries of one head
            keys.narrow(2, 0, self._position + 1),
            values.narrow(2, 0, self._position + 1),
            attn_mask=self._bias,
        )
        return mixed.reshape(batch, heads * width)


def _rotation(cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """The matrix [D, D] that rotates rows [N, D] from the right, of cosines and sines [R] (`kernels.rotate_`)."""
    c, s = cos.diag(), sin.diag()
    return torch.cat([torch.cat([c, s], 1), torch.cat([-s, c], 1)])
