// y = clamp(round(x * multiplier[n] / 2^shift[n])): int32 sums brought back to int8, with one factor per column, after ReLU unless
// RELU is 0. Four results are packed little-endian into a u32.
//
// The product of the size of x and the multiplier has up to 63 bits; WGSL has no 64-bit integers, so it is built from 16-bit
// halves. Halves round away from zero, as (product + 2^(shift - 1)) >> shift does with the size.

override M: u32; // rows
override N: u32; // columns, a multiple of 4
override RELU: u32 = 1; // 1: negative values become 0, 0: they keep their sign
override WORKGROUP: u32 = 64; // workgroup size

@group(0) @binding(0) var<storage, read> x: array<i32>; // i32 [M, N]
@group(0) @binding(1) var<storage, read> factor: array<vec2<u32>>; // u32 [N, 2]: multiplier < 2^31, shift in 1..=62
@group(0) @binding(2) var<storage, read_write> y: array<u32>; // i8 [M, N]

// a * b as (low, high) words.
fn product(a: u32, b: u32) -> vec2<u32> {
    let a0 = a & 0xffffu;
    let a1 = a >> 16u;
    let b0 = b & 0xffffu;
    let b1 = b >> 16u;
    let low = a0 * b0;
    let cross = a1 * b0 + (low >> 16u); // fits: (2^16 - 1)^2 + 2^16 - 1 < 2^32
    let middle = a0 * b1 + (cross & 0xffffu);
    return vec2<u32>((middle << 16u) | (low & 0xffffu), a1 * b1 + (cross >> 16u) + (middle >> 16u));
}

// The size of the result, at most 255.
fn scaled(size: u32, multiplier: u32, shift: u32) -> u32 {
    let exact = product(size, multiplier);
    // Shift by all but one place, then round: the last place decides. No shift by 32 or more, which WGSL does not define.
    let places = shift - 1u;
    var twice = exact.y >> (places & 31u);
    if places < 32u {
        if places == 0u {
            twice = exact.x;
        } else {
            twice = (exact.y << (32u - places)) | (exact.x >> places);
        }
        // Bits beyond 32 mean a result far above 128.
        if (exact.y >> places) != 0u {
            return 255u;
        }
    }
    return min((twice >> 1u) + (twice & 1u), 255u);
}

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let word = id.x;
    if word >= M * N / 4u {
        return;
    }
    var packed = 0u;
    for (var lane = 0u; lane < 4u; lane++) {
        let i = word * 4u + lane;
        let f = factor[i % N];
        let value = x[i];
        var rounded = 0;
        if value > 0 {
            rounded = min(i32(scaled(u32(value), f.x, f.y)), 127);
        } else if RELU == 0u {
            // Negated as unsigned, because -2^31 has no positive counterpart.
            rounded = max(-i32(scaled(0u - u32(value), f.x, f.y)), -128);
        }
        packed |= (u32(rounded) & 0xffu) << (8u * lane);
    }
    y[word] = packed;
}
