// y[m, n] = clamp(round(factor[n] * d / |d| + offset[n])): layer norm or RMS norm of int16 values, in integers alone.
//
// d is the row less its mean (MEAN = 1), or the row itself (MEAN = 0); dividing by its length |d| = sqrt(sum d^2) instead of by
// its deviation leaves sqrt(N) to the factor. The length is an integer square root of 31 bits, the quotient a long division.
// reference.rs and README.md have the ranges. One workgroup computes one row.

override M: u32; // rows, workgroups
override N: u32; // columns, a multiple of 4, at most 8192
override MEAN: u32 = 1; // 1: layer norm, 0: RMS norm
override EPSILON: u32 = 0; // added to the sum of squares, in units of 2^-16
override WORKGROUP: u32 = 64; // workgroup size, at most 256

@group(0) @binding(0) var<storage, read> x: array<i32>; // i32 [M, N], taken as clamped to int16
@group(0) @binding(1) var<storage, read> factor: array<i32>; // i32 [N, 3]: multiplier, shift in 1..=62, offset in units of 2^-8
@group(0) @binding(2) var<storage, read_write> y: array<u32>; // i8 [M, N]

var<workgroup> sums: array<i32, 256>;
var<workgroup> squares: array<vec2<u32>, 256>;

// a * b as (low, high) words.
fn product(a: u32, b: u32) -> vec2<u32> {
    let a0 = a & 0xffffu;
    let a1 = a >> 16u;
    let b0 = b & 0xffffu;
    let b1 = b >> 16u;
    let low = a0 * b0;
    let cross = a1 * b0 + (low >> 16u);
    let middle = a0 * b1 + (cross & 0xffffu);
    return vec2<u32>((middle << 16u) | (low & 0xffffu), a1 * b1 + (cross >> 16u) + (middle >> 16u));
}

fn plus(a: vec2<u32>, b: vec2<u32>) -> vec2<u32> {
    let low = a.x + b.x;
    return vec2<u32>(low, a.y + b.y + select(0u, 1u, low < a.x));
}

// round(value * multiplier / 2^shift), halves up, at most 2^30.
fn scaled(value: u32, multiplier: u32, shift: u32) -> u32 {
    let exact = product(value, multiplier);
    let places = shift - 1u;
    var twice = exact.y >> (places & 31u);
    if places < 32u {
        if twice != 0u {
            return 0x40000000u;
        }
        twice = exact.x;
        if places != 0u {
            twice = (exact.y << (32u - places)) | (exact.x >> places);
        }
    }
    return min((twice >> 1u) + (twice & 1u), 0x40000000u);
}

fn value(i: u32) -> i32 {
    return clamp(x[i], -32768, 32767);
}

// round(256 * sum / N), halves up.
fn mean(sum: i32) -> i32 {
    let columns = i32(N);
    var whole = sum / columns;
    var rest = sum % columns;
    if rest < 0 {
        whole -= 1;
        rest += columns;
    }
    return whole * 256 + (rest * 256 + columns / 2) / columns;
}

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>) {
    let row = group.x * N;

    var sum = 0;
    for (var n = local.x; n < N; n += WORKGROUP) {
        sum += value(row + n);
    }
    sums[local.x] = sum;
    workgroupBarrier();
    sum = 0;
    for (var i = 0u; i < WORKGROUP; i++) {
        sum += sums[i];
    }
    let centre = select(0, mean(sum), MEAN != 0u);

    var square = vec2<u32>(0u, 0u);
    for (var n = local.x; n < N; n += WORKGROUP) {
        let d = u32(abs(value(row + n) * 256 - centre));
        square = plus(square, product(d, d));
    }
    squares[local.x] = square;
    workgroupBarrier();
    square = vec2<u32>(EPSILON, 0u);
    for (var i = 0u; i < WORKGROUP; i++) {
        square = plus(square, squares[i]);
    }

    // square * 4^up has 61 or 62 bits, and its root 31.
    var zeros = countLeadingZeros(square.y);
    if square.y == 0u {
        zeros = 32u + countLeadingZeros(square.x);
    }
    let up = (max(zeros, 2u) - 2u) / 2u;
    let left = 2u * up;
    if left >= 32u {
        square = vec2<u32>(0u, square.x << (left & 31u));
    } else if left > 0u {
        square = vec2<u32>(square.x << left, (square.y << left) | (square.x >> (32u - left)));
    }
    var root = 0u;
    for (var i = 0u; i < 31u; i++) {
        let trial = root | (0x40000000u >> i);
        let tried = product(trial, trial);
        if tried.y < square.y || (tried.y == square.y && tried.x <= square.x) {
            root = trial;
        }
    }

    for (var word = local.x; word < N / 4u; word += WORKGROUP) {
        var packed = 0u;
        for (var lane = 0u; lane < 4u; lane++) {
            let n = word * 4u + lane;
            let d = value(row + n) * 256 - centre;
            // d / |d| in units of 2^-30, rounded down; a row without length has no direction.
            var quotient = 0u;
            if root != 0u {
                var rest = u32(abs(d)) << up;
                for (var i = 0u; i < 30u; i++) {
                    rest <<= 1u;
                    quotient <<= 1u;
                    if rest >= root {
                        rest -= root;
                        quotient |= 1u;
                    }
                }
            }
            let multiplier = factor[3u * n];
            let size = i32(scaled(quotient, u32(abs(multiplier)), u32(factor[3u * n + 1u])));
            let signed = select(size, -size, (d < 0) != (multiplier < 0));
            let rounded = (signed + factor[3u * n + 2u] + 128) >> 8u;
            packed |= (u32(clamp(rounded, -128, 127)) & 0xffu) << (8u * lane);
        }
        y[group.x * (N / 4u) + word] = packed;
    }
}
