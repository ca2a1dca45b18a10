"""The canonical sampler `gumbel-philox/v1`: which token follows from given logits is part of the protocol.

Whoever has the logits, the parameters and the job seed finds the same token, so a second machine can
check a first. For position p of an answer (0-based, absolute: a resumed job goes on counting), over
logits ℓ[V] in float32:

1. Adjust. aᵢ = biasᵢ − presence·[cᵢ > 0] − frequency·cᵢ, an integer in millionths; cᵢ is how often
   token i was generated before p in this answer, by whichever node. Where aᵢ ≠ 0, zᵢ =
   float32(float64(ℓᵢ) + aᵢ / 10⁶), elsewhere zᵢ = ℓᵢ. A grammar mask is a logit of −∞. NaN, +∞, or
   nothing but −∞ is an error of the engine.
2. Top-k. The candidates are the k greatest zᵢ above −∞, in the order of z falling, and of the id rising
   where z is equal. k is `top_k`, at most 256, which is also what 0 means. Temperature 0 means k = 1,
   and that is the choice. From here everything is float64; T is the temperature, a fraction is its
   millionths / 10⁶.
3. Top-p. wᵢ = exp((zᵢ − z₀) / T). A candidate stays if the sum of w before it, in that order, is less
   than top_p · (the sum of all w): the one that crosses the threshold stays, and so does the first. A
   `top_p` of 1 keeps all of them, whatever the rounding.
4. Min-p. Of these, a candidate stays if wᵢ ≥ min_p.
5. Choose the greatest zᵢ + T·gᵢ; of equals the first.

The noise of token i at position p:

    h = SHA-256("noise/v1" ‖ 0 ‖ job seed);   k0, k1, d0, d1 = the first four uint32 of h, little endian
    x = word 0 of Philox4x32-10(counter = (i, p, d0, d1), key = (k0, k1))
    g = −ln(−ln((x + 0.5) · 2⁻³²))

`reference` says this in numpy, one token at a time; `fast` does the same for a batch in torch.
"""
