"""Triton's kernels of the sums: a pass forward and one backward for a softmax and for sigmoids.

Every program adds up some pixels of one image, and `add_partials` adds up what these programs found, in a fixed order:
no atomics, so that results are the same from call to call. Arithmetic is in float32, whatever the logits are in.
"""

import triton
import triton.language as tl

# Arguments whose values Triton must not look at: from strides of 16 and of 1 it would conclude that a thread can load neighbouring
# pixels or classes at once, give each a part of the classes of some pixels, and let threads exchange what a softmax adds up.
# It may see that the class stride of a gradient is 1, in channels_last, and let neighbouring threads store neighbouring classes.
ANY = ["P", "W", "blocks"] + [f"{tensor}{axis}" for tensor in "zyg" for axis in "nchw" if tensor + axis != "gc"]
ANY += [f"{axis}_{number}" for axis in "nc" for number in range(1, 5)]

# CP >= C classes and B pixels are worked on at a time, [CP,B]: neighbouring threads have neighbouring pixels, and a thread all
# classes of its own, so that a softmax needs no exchange between threads. C is known to the compiler, which leaves out the
# padding. Strides are those of [N,C,H,W] and, of hard labels, of [N,H,W].


@triton.jit
def _places(first, n, c, P, W, sn, sc, sh, sw, B: tl.constexpr):
    """Pixels [B] from `first` on, whether they are there, and their offsets [CP,B]."""
    pixel = first + tl.arange(0, B)
    rows, columns = (pixel // W).to(tl.int64), (pixel % W).to(tl.int64)
    return pixel < P, (n * sn + rows * sh + columns * sw)[None, :] + (c.to(tl.int64) * sc)[:, None]


@triton.jit
def _softmax_labels(labels, c, inside, C: tl.constexpr, IGNORE: tl.constexpr, HARD: tl.constexpr):
    """Labels [CP,B], NaN where they are none, and whether each pixel [B] counts."""
    if HARD:  # labels [B]
        valid = inside & (labels != IGNORE)
        y = tl.where((c[:, None] == labels[None, :]) & valid[None, :], 1.0, 0.0)
        y = tl.where((valid & ((labels < 0) | (labels >= C)))[None, :], float("nan"), y)
    else:
        ignored = labels < 0
        if IGNORE > 1:
            ignored = ignored | (labels == IGNORE)
        valid = inside & (tl.sum(ignored.to(tl.int32), 0) == 0)
        y = tl.where(valid[None, :], tl.where(labels <= 1, labels, float("nan")), 0.0)
    return y, valid


@triton.jit
def _log_softmax(z, c, C: tl.constexpr):
    z = tl.where((c < C)[:, None], z, float("-inf"))
    z = z - tl.max(z, 0)[None, :]
    return z - tl.log(tl.sum(tl.exp(z), 0))[None, :]


@triton.jit
def _power(x, EXPONENT: tl.constexpr):
    """x^EXPONENT, x > 0."""
    return tl.exp(EXPONENT * tl.log(x))


@triton.jit
def _below(p, y):
    """The slope of min(p, y) by p."""
    return tl.where(p < y, 1.0, 0.0) + tl.where(p == y, 0.5, 0.0)


@triton.jit
def _slope(slope, sn, sc, n, c, C: tl.constexpr, GIVEN: tl.constexpr):
    """The gradient [CP,1] of the loss by one of the sums of an image, 0 where it is none."""
    if GIVEN:
        return tl.load(slope + n * sn + c * sc, mask=c < C, other=0.0)[:, None]
    else:
        return tl.zeros([1, 1], tl.float32)


@triton.jit
def _store_partial(partial, n, block, blocks, c, first, second, P, TP, Y, peak, count, CP: tl.constexpr):
    out = partial + (n * blocks + block) * 7 * CP + c
    tl.store(out, tl.sum(first, 1))
    tl.store(out + CP, tl.sum(second, 1))
    tl.store(out + 2 * CP, tl.sum(P, 1))
    tl.store(out + 3 * CP, tl.sum(TP, 1))
    tl.store(out + 4 * CP, tl.sum(Y, 1))
    tl.store(out + 5 * CP, tl.max(peak, 1))
    tl.store(out + 6 * CP, count)


@triton.jit
def _softmax_block(
    z, y, first, n, c, P, W, zn, zc, zh, zw, yn, yc, yh, yw,
    C: tl.constexpr, IGNORE: tl.constexpr, HARD: tl.constexpr, B: tl.constexpr,
):  # fmt: skip
    """Of B pixels from `first` on: log-probabilities and labels [CP,B], whether each counts [B], and is there [CP,B]."""
    inside, at = _places(first, n, c, P, W, zn, zc, zh, zw, B)
    there = inside[None, :] & (c < C)[:, None]
    log_p = _log_softmax(tl.load(z + at, mask=there, other=0.0).to(tl.float32), c, C)
    if HARD:
        _, at = _places(first, n, tl.zeros([1], tl.int32), P, W, yn, yc, yh, yw, B)
        labels = tl.load(y + at, mask=inside[None, :], other=0).to(tl.int32).reshape([B])
    else:
        _, at = _places(first, n, c, P, W, yn, yc, yh, yw, B)
        labels = tl.load(y + at, mask=there, other=0.0).to(tl.float32)
    labels, valid = _softmax_labels(labels, c, inside, C, IGNORE, HARD)
    return log_p, labels, valid, there


@triton.jit(do_not_specialize=ANY)
def softmax_forward(
    z, y, partial, P, W, zn, zc, zh, zw, yn, yc, yh, yw, blocks,
    C: tl.constexpr, IGNORE: tl.constexpr, GAMMA: tl.constexpr, SMOOTHING: tl.constexpr, HARD: tl.constexpr,
    CP: tl.constexpr, B: tl.constexpr,
):  # fmt: skip
    """Sums of the pixels of every `blocks`-th block of B: pixel, uniform, P, TP, Y, largest y, valid pixels."""
    block, n = tl.program_id(0), tl.program_id(1).to(tl.int64)
    c = tl.arange(0, CP)
    pixel_sum = tl.zeros([CP, B], tl.float32)
    uniform_sum = tl.zeros([CP, B], tl.float32)
    P_sum = tl.zeros([CP, B], tl.float32)
    TP_sum = tl.zeros([CP, B], tl.float32)
    Y_sum = tl.zeros([CP, B], tl.float32)
    peak = tl.zeros([CP, B], tl.float32)
    count = tl.zeros([B], tl.float32)
    for first in range(block * B, P, blocks * B):
        log_p, labels, valid, _ = _softmax_block(
            z, y, first, n, c, P, W, zn, zc, zh, zw, yn, yc, yh, yw, C, IGNORE, HARD, B
        )
        p = tl.exp(log_p)
        surprise = -log_p
        if GAMMA > 0:
            surprise = surprise * _power(tl.maximum(1 - p, 1e-30), GAMMA)
        pixel_sum += tl.where(labels > 0, labels * surprise, 0.0)
        if SMOOTHING:
            uniform_sum += tl.where(valid[None, :] & (c < C)[:, None], -log_p, 0.0)
        P_sum += tl.where(valid[None, :], p, 0.0)
        TP_sum += tl.minimum(p, labels)
        Y_sum += labels
        if not HARD:
            peak = tl.maximum(peak, labels)
        count += tl.where(valid, 1.0, 0.0)
    if HARD:
        peak = Y_sum
    every = tl.sum(count, 0) + tl.zeros([CP], tl.float32)
    _store_partial(partial, n, block, blocks, c, pixel_sum, uniform_sum, P_sum, TP_sum, Y_sum, peak, every, CP)


@triton.jit(do_not_specialize=ANY)
def softmax_backward(
    z, y, gradient, P, W, zn, zc, zh, zw, yn, yc, yh, yw, gn, gc, gh, gw,
    d_1, n_1, c_1, d_2, n_2, c_2, d_3, n_3, c_3, d_4, n_4, c_4,
    GIVEN_1: tl.constexpr, GIVEN_2: tl.constexpr, GIVEN_3: tl.constexpr, GIVEN_4: tl.constexpr,
    C: tl.constexpr, IGNORE: tl.constexpr, GAMMA: tl.constexpr, SMOOTHING: tl.constexpr, HARD: tl.constexpr,
    CP: tl.constexpr, B: tl.constexpr,
):  # fmt: skip
    """The gradient of a block of B pixels, from those by pixel, uniform, P and TP."""
    n = tl.program_id(1).to(tl.int64)
    c = tl.arange(0, CP)
    first = tl.program_id(0) * B
    log_p, labels, valid, there = _softmax_block(
        z, y, first, n, c, P, W, zn, zc, zh, zw, yn, yc, yh, yw, C, IGNORE, HARD, B
    )
    p = tl.exp(log_p)
    d_P, d_TP = _slope(d_3, n_3, c_3, n, c, C, GIVEN_3), _slope(d_4, n_4, c_4, n, c, C, GIVEN_4)
    surprise = labels * _slope(d_1, n_1, c_1, n, c, C, GIVEN_1)
    if GAMMA > 0:
        rest = tl.maximum(1 - p, 1e-12)
        part = _power(rest, GAMMA - 1)
        surprise = surprise * (part * (1 - p) - GAMMA * tl.where(p > 0, p * log_p, 0.0) * part)
    by_log_p = p * (d_P + d_TP * _below(p, labels)) - surprise
    if SMOOTHING:
        by_log_p -= _slope(d_2, n_2, c_2, n, c, C, GIVEN_2)
    d_z = by_log_p - p * tl.sum(by_log_p, 0)[None, :]
    _, at = _places(first, n, c, P, W, gn, gc, gh, gw, B)
    tl.store(gradient + at, tl.where(valid[None, :], d_z, 0.0).to(gradient.dtype.element_ty), mask=there)


@triton.jit
def _sigmoid_labels(labels, there, IGNORE: tl.constexpr):
    """Labels, 0 where ignored and NaN where they are none, and whether each counts."""
    valid = there & (labels != IGNORE)
    return tl.where(valid, tl.where((labels >= 0) & (labels <= 1), labels, float("nan")), 0.0), valid


@triton.jit
def _softplus(z):
    """ln(1 + exp(z)), and exp(-|z|)."""
    small = tl.exp(-tl.abs(z))
    # ln(1 + e) of a small e keeps its digits
    return tl.maximum(z, 0.0) + tl.where(
        small < 1e-3, small * (1 - small * (0.5 - small / 3)), tl.log(1 + small)
    ), small


@triton.jit(do_not_specialize=ANY)
def sigmoid_forward(
    z, y, partial, P, W, zn, zc, zh, zw, yn, yc, yh, yw, blocks,
    C: tl.constexpr, IGNORE: tl.constexpr, CP: tl.constexpr, B: tl.constexpr,
):  # fmt: skip
    """Sums of the pixels of every `blocks`-th block of B: positive, negative, P, TP, Y, largest y, valid pixels."""
    block, n = tl.program_id(0), tl.program_id(1).to(tl.int64)
    c = tl.arange(0, CP)
    positive = tl.zeros([CP, B], tl.float32)
    negative = tl.zeros([CP, B], tl.float32)
    P_sum = tl.zeros([CP, B], tl.float32)
    TP_sum = tl.zeros([CP, B], tl.float32)
    Y_sum = tl.zeros([CP, B], tl.float32)
    peak = tl.zeros([CP, B], tl.float32)
    count = tl.zeros([CP, B], tl.float32)
    for first in range(block * B, P, blocks * B):
        inside, at = _places(first, n, c, P, W, zn, zc, zh, zw, B)
        there = inside[None, :] & (c < C)[:, None]
        logits = tl.load(z + at, mask=there, other=0.0).to(tl.float32)
        _, at = _places(first, n, c, P, W, yn, yc, yh, yw, B)
        labels, valid = _sigmoid_labels(tl.load(y + at, mask=there, other=0).to(tl.float32), there, IGNORE)
        plus, small = _softplus(logits)
        p = tl.where(logits >= 0, 1.0, small) / (1 + small)
        positive += tl.where(labels != 0, labels * (plus - logits), 0.0)
        negative += tl.where(valid, (1 - labels) * plus, 0.0)
        P_sum += tl.where(valid, p, 0.0)
        TP_sum += tl.where(valid, tl.minimum(p, labels), 0.0)
        Y_sum += labels
        peak = tl.maximum(peak, labels)
        count += tl.where(valid, 1.0, 0.0)
    every = tl.sum(count, 1)
    _store_partial(partial, n, block, blocks, c, positive, negative, P_sum, TP_sum, Y_sum, peak, every, CP)


@triton.jit(do_not_specialize=ANY)
def sigmoid_backward(
    z, y, gradient, P, W, zn, zc, zh, zw, yn, yc, yh, yw, gn, gc, gh, gw,
    d_1, n_1, c_1, d_2, n_2, c_2, d_3, n_3, c_3, d_4, n_4, c_4,
    GIVEN_1: tl.constexpr, GIVEN_2: tl.constexpr, GIVEN_3: tl.constexpr, GIVEN_4: tl.constexpr,
    C: tl.constexpr, IGNORE: tl.constexpr, CP: tl.constexpr, B: tl.constexpr,
):  # fmt: skip
    """The gradient of a block of B pixels, from those by positive, negative, P and TP."""
    n = tl.program_id(1).to(tl.int64)
    c = tl.arange(0, CP)
    first = tl.program_id(0) * B
    inside, at = _places(first, n, c, P, W, zn, zc, zh, zw, B)
    there = inside[None, :] & (c < C)[:, None]
    logits = tl.load(z + at, mask=there, other=0.0).to(tl.float32)
    _, at = _places(first, n, c, P, W, yn, yc, yh, yw, B)
    labels, valid = _sigmoid_labels(tl.load(y + at, mask=there, other=0).to(tl.float32), there, IGNORE)
    d_positive, d_negative = _slope(d_1, n_1, c_1, n, c, C, GIVEN_1), _slope(d_2, n_2, c_2, n, c, C, GIVEN_2)
    d_P, d_TP = _slope(d_3, n_3, c_3, n, c, C, GIVEN_3), _slope(d_4, n_4, c_4, n, c, C, GIVEN_4)
    small = tl.exp(-tl.abs(logits))
    p, rest = tl.where(logits >= 0, 1.0, small) / (1 + small), tl.where(logits >= 0, small, 1.0) / (1 + small)
    d_z = p * rest * (d_P + d_TP * _below(p, labels)) - d_positive * labels * rest + d_negative * (1 - labels) * p
    _, at = _places(first, n, c, P, W, gn, gc, gh, gw, B)
    tl.store(gradient + at, tl.where(valid, d_z, 0.0).to(gradient.dtype.element_ty), mask=there)


@triton.jit
def add_partials(partial, sums, present, N, C, blocks, CP: tl.constexpr, AT_A_TIME: tl.constexpr):
    """An image's partial sums added up in float64: `sums` [6,N,C] of all but the largest y, of which `present` tells."""
    n, kind = tl.program_id(0), tl.program_id(1)
    c = tl.arange(0, CP)
    total = tl.zeros([CP], tl.float64)
    peak = tl.zeros([CP], tl.float32)
    for first in range(0, blocks, AT_A_TIME):
        block = first + tl.arange(0, AT_A_TIME)
        at = ((n.to(tl.int64) * blocks + block) * 7 + kind)[:, None] * CP + c[None, :]
        part = tl.load(partial + at, mask=(block < blocks)[:, None], other=0.0)
        total += tl.sum(part.to(tl.float64), 0)
        peak = tl.maximum(peak, tl.max(part, 0))
    if kind == 5:
        tl.store(present + n * C + c, peak > 0.01, mask=c < C)
    else:
        row = tl.where(kind > 5, 5, kind)
        tl.store(sums + (row * N + n) * C + c, total.to(tl.float32), mask=c < C)
