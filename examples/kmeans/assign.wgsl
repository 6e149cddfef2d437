// The nearest centroid of each point of a block; of two equally near ones the first.

override POINTS: u32;
override CENTROIDS: u32;
override AXES: u32;
override SCALE: i32;

@group(0) @binding(0) var<storage, read> points: array<i32>;
@group(0) @binding(1) var<storage, read> centroids: array<i32>;
@group(0) @binding(2) var<storage, read_write> labels: array<u32>;

@compute @workgroup_size(32)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let point = id.x;
    if (point >= POINTS) {
        return;
    }
    var best = 0u;
    var nearest = 0xffffffffu;
    for (var k = 0u; k < CENTROIDS; k++) {
        var distance = 0u;
        for (var axis = 0u; axis < AXES; axis++) {
            // At most 16 · 256 either way, so that the sum of 64 squares stays below 2³¹.
            let difference = SCALE * points[point * (AXES + 1u) + axis] - centroids[k * AXES + axis];
            distance += u32(difference * difference);
        }
        if (distance < nearest) {
            nearest = distance;
            best = k;
        }
    }
    labels[point] = best;
}
