// c = a · b for square matrices of 32-bit floats, in tiles of 64 by 64: 16 by 16 invocations with 4 by 4 sums each. Every
// workgroup along z computes the same product again, so that a dispatch can be made as long as its measurement needs.

const SIZE = 256u;
const DEPTH = 16u;

@group(0) @binding(0) var<storage, read> a: array<f32>;
@group(0) @binding(1) var<storage, read> b: array<f32>;
@group(0) @binding(2) var<storage, read_write> c: array<f32>;

var<workgroup> rows: array<array<vec4<f32>, 16>, 16>;
var<workgroup> columns: array<array<vec4<f32>, 16>, 16>;

fn four_rows(row: u32, column: u32) -> vec4<f32> {
    let at = row * SIZE + column;
    return vec4(a[at], a[at + SIZE], a[at + 2u * SIZE], a[at + 3u * SIZE]);
}

fn four_columns(row: u32, column: u32) -> vec4<f32> {
    let at = row * SIZE + column;
    return vec4(b[at], b[at + 1u], b[at + 2u], b[at + 3u]);
}

@compute @workgroup_size(16, 16)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>) {
    let row = 64u * group.y + 4u * local.y;
    let column = 64u * group.x + 4u * local.x;
    var sums: array<vec4<f32>, 4>;
    for (var k = 0u; k < SIZE; k += DEPTH) {
        rows[local.x][local.y] = four_rows(row, k + local.x);
        columns[local.y][local.x] = four_columns(k + local.y, column);
        workgroupBarrier();
        for (var i = 0u; i < DEPTH; i++) {
            let left = rows[i][local.y];
            let right = columns[i][local.x];
            sums[0] = fma(vec4(left.x), right, sums[0]);
            sums[1] = fma(vec4(left.y), right, sums[1]);
            sums[2] = fma(vec4(left.z), right, sums[2]);
            sums[3] = fma(vec4(left.w), right, sums[3]);
        }
        workgroupBarrier();
    }
    for (var i = 0u; i < 4u; i++) {
        let at = (row + i) * SIZE + column;
        for (var j = 0u; j < 4u; j++) {
            c[at + j] = sums[i][j];
        }
    }
}
