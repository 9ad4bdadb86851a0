"""Forward-backward smoothing of a heading that follows a random walk on the circle."""

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["forward_backward"]

# Shapes: W windows, N headings


def forward_backward(
    log_likelihood: Float[Tensor, "windows bins"],
    log_prior: Float[Tensor, " bins"],
    log_step: Float[Tensor, "bins bins"],
) -> Float[Tensor, "windows bins"]:
    """Returns log p(heading in each window | all windows) of a hidden Markov chain.

    Forward a_1 = prior * l_1, a_t = l_t * (a_{t-1} K); backward b_W = 1, b_t = K (l_{t+1} *
    b_{t+1}); the result is a * b, normalized. In logarithms, as the products would underflow.

    Arguments:
        log_likelihood: log l_t, up to a constant per window.
        log_prior: Logarithm of the prior in the first window.
        log_step: log K, transition probabilities from row to column.
    """
    forward = [log_prior + log_likelihood[0]]
    for like in log_likelihood[1:]:
        ahead = (forward[-1][:, None] + log_step).logsumexp(0)
        forward.append((ahead + like).log_softmax(0))
    backward = [torch.zeros_like(log_prior)]
    for like in log_likelihood[1:].flip(0):
        behind = (log_step + (like + backward[-1])).logsumexp(1)
        backward.append(behind - behind.max())
    return (torch.stack(forward) + torch.stack(backward[::-1])).log_softmax(1)
