// The KEPT models of the least loss, the best first; of two equal ones the first.

override MODELS: u32;
override KEPT: u32;

@group(0) @binding(0) var<storage, read> models: array<f32>;
@group(0) @binding(1) var<storage, read_write> best: array<f32>;

const COLUMNS = 67u;

@compute @workgroup_size(16)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    if (id.x >= MODELS) {
        return;
    }
    let loss = models[id.x * COLUMNS];
    var place = 0u;
    for (var other = 0u; other < MODELS; other++) {
        let theirs = models[other * COLUMNS];
        if (theirs < loss || (theirs == loss && other < id.x)) {
            place += 1u;
        }
    }
    if (place < KEPT) {
        for (var column = 0u; column < COLUMNS; column++) {
            best[place * COLUMNS + column] = models[id.x * COLUMNS + column];
        }
    }
}
