// y[m] = index of the largest of x[m, 0..N]; the lowest index wins a tie.

override M: u32; // rows
override N: u32; // columns, at least 1
override WORKGROUP: u32 = 64; // workgroup size

@group(0) @binding(0) var<storage, read> x: array<i32>; // i32 [M, N]
@group(0) @binding(1) var<storage, read_write> y: array<i32>; // i32 [M]

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let m = id.x;
    if m >= M {
        return;
    }
    var best = 0u;
    for (var n = 1u; n < N; n++) {
        if x[m * N + n] > x[m * N + best] {
            best = n;
        }
    }
    y[m] = i32(best);
}
