// Draws one tile of the Mandelbrot set.
//
// The arithmetic is fixed-point on integers, so that every device makes the same bits and results are compared by hash. With
// f32 it would be shorter: then give the output a tolerance in job.toml, such as compare = { abs = 0.01, outliers_max = 0.02 }.

override WORKGROUP: u32 = 64;
override STEPS: u32 = 500;

// x, y, width and height of the tile in pixels.
@group(0) @binding(0) var<storage, read> tile: array<u32>;
// x and y of the picture's middle, and the width of what it shows.
@group(0) @binding(1) var<storage, read> view: array<f32>;
// Red, green, blue and alpha of a pixel in one word.
@group(0) @binding(2) var<storage, read_write> pixels: array<u32>;

const PICTURE = vec2<i32>(640, 400);
// Numbers have 24 bits after the point and reach from -128 to 128.
const ONE = 16777216.0;

// The product of two fixed-point numbers, from their upper and lower 12 bits. It drops the product of the lower halves.
fn times(a: i32, b: i32) -> i32 {
    let a_high = a >> 12u;
    let b_high = b >> 12u;
    let a_low = a & 4095;
    let b_low = b & 4095;
    return a_high * b_high + ((a_high * b_low) >> 12u) + ((a_low * b_high) >> 12u);
}

// A colour between dark blue, white and orange, going round every 256 steps.
fn colour(step: u32) -> u32 {
    let wave = abs(i32((step * 5u) & 511u) - 256);
    let warm = abs(i32((step * 3u + 128u) & 511u) - 256);
    let red = u32(clamp(warm, 0, 255));
    let green = u32(clamp((wave + warm) / 2, 0, 255));
    let blue = u32(clamp(wave + 40, 0, 255));
    return red | (green << 8u) | (blue << 16u) | 0xff000000u;
}

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    if id.x >= tile[2] * tile[3] {
        return;
    }
    let pixel = vec2<i32>(i32(tile[0] + id.x % tile[2]), i32(tile[1] + id.x / tile[2]));
    let from_middle = pixel - PICTURE / 2;
    // Products with a power of two are exact, and so are these conversions.
    let step_width = i32(view[2] * ONE) / PICTURE.x;
    let c_x = i32(view[0] * ONE) + from_middle.x * step_width;
    let c_y = i32(view[1] * ONE) - from_middle.y * step_width;
    var x = 0;
    var y = 0;
    var steps = 0u;
    while steps < STEPS {
        let x_squared = times(x, x);
        let y_squared = times(y, y);
        if x_squared + y_squared > i32(4.0 * ONE) {
            break;
        }
        y = 2 * times(x, y) + c_y;
        x = x_squared - y_squared + c_x;
        steps += 1u;
    }
    pixels[id.x] = select(colour(steps), 0xff000000u, steps == STEPS);
}
