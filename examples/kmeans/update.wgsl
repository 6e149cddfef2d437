// New centroids from all blocks' sums, rounded down to 1/SCALE. One without points stays where it is.

override BLOCKS: u32;
override CENTROIDS: u32;
override AXES: u32;
override SCALE: i32;

@group(0) @binding(0) var<storage, read> sums: array<i32>;
@group(0) @binding(1) var<storage, read> before: array<i32>;
@group(0) @binding(2) var<storage, read_write> centroids: array<i32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    if (id.x >= CENTROIDS * AXES) {
        return;
    }
    let columns = AXES + 1u;
    let row = (id.x / AXES) * columns;
    var sum = 0;
    var count = 0;
    for (var block = 0u; block < BLOCKS; block++) {
        let at = block * CENTROIDS * columns + row;
        sum += sums[at + id.x % AXES];
        count += sums[at + AXES];
    }
    if (count == 0) {
        centroids[id.x] = before[id.x];
    } else {
        centroids[id.x] = SCALE * sum / count;
    }
}
