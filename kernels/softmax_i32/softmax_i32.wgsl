// y[m, n] = round(2^15 * exp(s * x[m, n]) / sum over j of exp(s * x[m, j])), in integers alone.
//
// exp(s * (x - max)) = 2^-t with t = (max - x) * s / ln 2. The factor s / ln 2 comes as multiplier / 2^shift and gives t with 16
// fractional bits; 2^-t is a polynomial of the fractional part, shifted right by the whole part. reference.rs and README.md
// derive the numbers. One workgroup computes one row.

override M: u32; // rows, workgroups
override N: u32; // columns, 1..=65536
override MULTIPLIER: u32; // below 2^31
override SHIFT: u32; // 1..=62
override WORKGROUP: u32 = 64; // workgroup size, at most 256

@group(0) @binding(0) var<storage, read> x: array<i32>; // i32 [M, N]
@group(0) @binding(1) var<storage, read_write> y: array<i32>; // i32 [M, N], in units of 2^-15

var<workgroup> largest: array<i32, 256>;
var<workgroup> sums: array<u32, 256>;

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

// round(value * multiplier / 2^shift), halves up, at most 2^31 - 1.
fn octaves(value: u32, multiplier: u32, shift: u32) -> u32 {
    let exact = product(value, multiplier);
    let places = shift - 1u;
    var twice = exact.y >> (places & 31u);
    if places < 32u {
        if twice != 0u {
            return 0x7fffffffu;
        }
        twice = exact.x;
        if places != 0u {
            twice = (exact.y << (32u - places)) | (exact.x >> places);
        }
    }
    return min((twice >> 1u) + (twice & 1u), 0x7fffffffu);
}

// round down (r * f / 2^16) with f < 2^16.
fn times(r: u32, f: u32) -> u32 {
    return (r >> 16u) * f + (((r & 0xffffu) * f) >> 16u);
}

// 2^-t with t in units of 2^-16, as an integer of 2^-(30 - guard): what N of them add up to stays below 2^31.
fn power(t: u32, guard: u32) -> u32 {
    let places = (t >> 16u) + guard;
    if places > 30u {
        return 0u;
    }
    let f = t & 0xffffu;
    var r = 9906609u - times(1018155u, f);
    r = 59408516u - times(r, f);
    r = 257909302u - times(r, f);
    r = 744260153u - times(r, f);
    r = 1073741824u - times(r, f);
    if places == 0u {
        return r;
    }
    return ((r >> (places - 1u)) + 1u) >> 1u;
}

// round(2^15 * part / whole), halves up, for part <= whole < 2^31: one bit a step.
fn share(part: u32, whole: u32) -> i32 {
    var rest = part;
    var bits = 0u;
    for (var i = 0u; i < 16u; i++) {
        rest <<= 1u;
        bits <<= 1u;
        if rest >= whole {
            rest -= whole;
            bits |= 1u;
        }
    }
    return i32((bits + 1u) >> 1u);
}

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>) {
    let row = group.x * N;
    let guard = 32u - countLeadingZeros(N - 1u); // the exponent of the power of two that N does not exceed

    var high = x[row];
    for (var n = local.x; n < N; n += WORKGROUP) {
        high = max(high, x[row + n]);
    }
    largest[local.x] = high;
    workgroupBarrier();
    for (var i = 0u; i < WORKGROUP; i++) {
        high = max(high, largest[i]);
    }

    var sum = 0u;
    for (var n = local.x; n < N; n += WORKGROUP) {
        sum += power(octaves(u32(high) - u32(x[row + n]), MULTIPLIER, SHIFT), guard);
    }
    sums[local.x] = sum;
    workgroupBarrier();
    sum = 0u;
    for (var i = 0u; i < WORKGROUP; i++) {
        sum += sums[i];
    }

    for (var n = local.x; n < N; n += WORKGROUP) {
        y[row + n] = share(power(octaves(u32(high) - u32(x[row + n]), MULTIPLIER, SHIFT), guard), sum);
    }
}
