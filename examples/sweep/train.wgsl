// STEPS steps of gradient descent of a logistic regression on the first half of the points, and its loss on the second half.

override POINTS: u32;
override STEPS: u32;

@group(0) @binding(0) var<storage, read> before: array<f32>;
@group(0) @binding(1) var<storage, read> points: array<i32>;
@group(0) @binding(2) var<storage, read_write> model: array<f32>;

const AXES = 64u;
const HALF_MAX = 256u;

var<workgroup> weights: array<f32, 65>;
var<workgroup> errors: array<f32, HALF_MAX>;

fn value(point: u32, axis: u32) -> f32 {
    return f32(points[point * (AXES + 1u) + axis]) / 16.0;
}

// The model's belief that the digit is odd, kept away from 0 and 1.
fn belief(point: u32) -> f32 {
    var sum = weights[AXES];
    for (var axis = 0u; axis < AXES; axis++) {
        sum += weights[axis] * value(point, axis);
    }
    return clamp(1.0 / (1.0 + exp(-clamp(sum, -30.0, 30.0))), 0.0001, 0.9999);
}

@compute @workgroup_size(64)
fn main(@builtin(local_invocation_id) id: vec3<u32>) {
    let half = min(POINTS / 2u, HALF_MAX);
    let rate = before[1];
    weights[id.x] = before[2u + id.x];
    if (id.x == 0u) {
        weights[AXES] = before[2u + AXES];
    }
    workgroupBarrier();
    for (var step = 0u; step < STEPS; step++) {
        for (var point = id.x; point < half; point += 64u) {
            errors[point] = belief(point) - value(point, AXES) * 16.0;
        }
        workgroupBarrier();
        var slope = 0.0;
        var bias = 0.0;
        for (var point = 0u; point < half; point++) {
            slope += errors[point] * value(point, id.x);
            bias += errors[point];
        }
        weights[id.x] -= rate * slope / f32(half);
        if (id.x == 0u) {
            weights[AXES] -= rate * bias / f32(half);
        }
        workgroupBarrier();
    }
    for (var point = id.x; point < half; point += 64u) {
        let odd = value(half + point, AXES) * 16.0;
        let p = belief(half + point);
        errors[point] = -(odd * log(p) + (1.0 - odd) * log(1.0 - p));
    }
    workgroupBarrier();
    model[2u + id.x] = weights[id.x];
    if (id.x == 0u) {
        var loss = 0.0;
        for (var point = 0u; point < half; point++) {
            loss += errors[point];
        }
        model[0] = loss / f32(half);
        model[1] = rate;
        model[2u + AXES] = weights[AXES];
    }
}
