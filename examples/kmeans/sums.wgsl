// For each centroid the sum of its points in this block, and how many they are: the last column of a point is 1, and 0 for
// padding.

override POINTS: u32;
override CENTROIDS: u32;
override AXES: u32;

@group(0) @binding(0) var<storage, read> points: array<i32>;
@group(0) @binding(1) var<storage, read> labels: array<u32>;
@group(0) @binding(2) var<storage, read_write> sums: array<i32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let columns = AXES + 1u;
    if (id.x >= CENTROIDS * columns) {
        return;
    }
    let centroid = id.x / columns;
    let column = id.x % columns;
    var sum = 0;
    for (var point = 0u; point < POINTS; point++) {
        if (labels[point] == centroid) {
            sum += points[point * columns + column] * points[point * columns + AXES];
        }
    }
    sums[id.x] = sum;
}
