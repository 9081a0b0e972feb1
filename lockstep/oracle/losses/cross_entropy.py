"""The cross entropy of K classes."""

import numpy as np

from lockstep.oracle.arithmetic import Array, Exact
from lockstep.oracle.losses.parts import RowLosses, Targets, one_hot, softmax
from lockstep.recipe import CrossEntropy

__all__ = ["row_losses"]


def row_losses(loss: CrossEntropy, logits_BK: Array, y_B: Targets, arithmetic: Exact) -> RowLosses:
    """-sum_k w_k q_k log softmax_k, by the shifted log-sum-exp; q is the label, smoothed over all K
    classes.

    A row with label y has weight w_y in the mean, also where the label is smoothed: torch 2.13,
    `torch.nn.functional.cross_entropy`.
    """
    softmax_BK, largest_B1, shifted_BK, log_sum_B1 = softmax(logits_BK, arithmetic)
    classes = logits_BK.shape[-1]
    target_BK = one_hot(y_B, classes)
    counts_B1 = (y_B >= 0)[:, None].astype(np.float64)
    if not loss.label_smoothing and not loss.class_weights:
        index_B1 = np.broadcast_to(np.maximum(y_B, 0)[:, None], (*shifted_BK.shape[:-1], 1))
        chosen_B1 = np.take_along_axis(shifted_BK, index_B1, axis=-1)
        # a framework may add the largest logit back before it subtracts the chosen one
        size_B1 = np.abs(largest_B1) + np.abs(chosen_B1)
        loss_B1 = arithmetic.near(log_sum_B1 - chosen_B1, size_B1) * counts_B1
        return RowLosses(loss_B1[..., 0], counts_B1[:, 0], softmax_BK * counts_B1 - target_BK)
    weight_1K = arithmetic.constant(
        "class_weights", np.array([loss.class_weights or (1.0,) * classes])
    )
    weight_B = (target_BK * weight_1K).sum(axis=-1)
    if loss.label_smoothing:
        sharp = arithmetic.constant("1 - label_smoothing", 1 - loss.label_smoothing)
        even = arithmetic.constant("label_smoothing / K", loss.label_smoothing / classes)
        target_BK = sharp * target_BK + even * counts_B1
    target_BK = arithmetic.round(target_BK * weight_1K)
    log_BK = arithmetic.near(shifted_BK - log_sum_B1, np.abs(largest_B1) + np.abs(shifted_BK))
    target_size_B1 = np.linalg.norm(target_BK, axis=-1, keepdims=True)
    size_B1 = target_size_B1 * np.linalg.norm(log_BK, axis=-1, keepdims=True)
    # a class whose target is 0 counts for nothing, also where its logit is -inf
    terms_BK = np.where(target_BK == 0, 0.0, target_BK * log_BK)
    loss_B1 = arithmetic.near(-terms_BK.sum(axis=-1, keepdims=True), size_B1)
    sum_B1 = arithmetic.round(target_BK.sum(axis=-1, keepdims=True))
    scaled_BK = softmax_BK * sum_B1
    slope_BK = arithmetic.near(scaled_BK - target_BK, np.maximum(scaled_BK, target_BK))
    return RowLosses(loss_B1[..., 0], weight_B, slope_BK)
