// y[m, n] = bias[n] + sum over k of x[m, k] * w[n, k], int8 inputs, int32 sums.
//
// The weights lie as [N, K] (one row per output), so that both operands are contiguous along K and four int8 values, packed
// little-endian in a u32, meet in one dot4I8Packed. Integer sums do not depend on their order: every device and every
// workgroup size gives the same bits.

override M: u32; // rows of x
override N: u32; // rows of w, columns of y
override K: u32; // inner size, a multiple of 4
override TILE: u32 = 8; // workgroup edge

@group(0) @binding(0) var<storage, read> x: array<u32>; // i8 [M, K]
@group(0) @binding(1) var<storage, read> w: array<u32>; // i8 [N, K]
@group(0) @binding(2) var<storage, read> bias: array<i32>; // i32 [N]
@group(0) @binding(3) var<storage, read_write> y: array<i32>; // i32 [M, N]

@compute @workgroup_size(TILE, TILE)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let m = id.x;
    let n = id.y;
    if m >= M || n >= N {
        return;
    }
    let words = K / 4u;
    var sum = bias[n];
    for (var k = 0u; k < words; k++) {
        sum += dot4I8Packed(x[m * words + k], w[n * words + k]);
    }
    y[m * N + n] = sum;
}
