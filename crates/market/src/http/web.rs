//! The web app that was built into the program.

use api::code;
use axum::{
    body::Bytes,
    http::{HeaderValue, Method, Uri, header},
    response::{IntoResponse, Response},
};

use crate::failure::Failure;

/// File names and contents; see `build.rs`.
const ASSETS: &[(&str, &[u8])] = include!(concat!(env!("OUT_DIR"), "/assets.rs"));

fn find(name: &str) -> Option<(&'static str, &'static [u8])> {
    ASSETS.iter().find(|(asset, _)| *asset == name).copied()
}

fn media_type(name: &str) -> &'static str {
    match name.rsplit_once('.').map(|(_, extension)| extension) {
        Some("html") => "text/html; charset=utf-8",
        Some("js" | "mjs") => "text/javascript; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("json" | "map" | "webmanifest") => "application/json",
        Some("svg") => "image/svg+xml",
        Some("png") => "image/png",
        Some("ico") => "image/x-icon",
        Some("woff2") => "font/woff2",
        Some("wasm") => "application/wasm",
        Some("txt" | "wgsl") => "text/plain; charset=utf-8",
        _ => "application/octet-stream",
    }
}

/// A file of the web app; paths without a file are pages of the app, which finds its way itself.
pub async fn asset(method: Method, uri: Uri) -> Response {
    let path = uri.path().trim_start_matches('/');
    let is_api = path == "v1" || path.starts_with("v1/");
    let last = path.rsplit('/').next().unwrap_or_default();
    let found = match path {
        "" => find("index.html"),
        _ if is_api => None,
        _ => find(path)
            .or_else(|| find(&format!("{path}.html")))
            .or_else(|| find(&format!("{path}/index.html")))
            .or_else(|| if last.contains('.') { None } else { find("index.html") }),
    };
    let Some((name, bytes)) = found else {
        return Failure::new(
            code::NOT_FOUND,
            format!("there is nothing at {}", uri.path()),
            "see /v1/openapi.json for the paths there are",
        )
        .into_response();
    };
    if method != Method::GET && method != Method::HEAD {
        return Failure::new(code::METHOD_NOT_ALLOWED, "a page can only be read", "use GET").into_response();
    }
    // The build puts a hash into the names below assets/.
    let cache = if name.starts_with("assets/") { "public, max-age=31536000, immutable" } else { "no-cache" };
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static(media_type(name))),
        (header::CACHE_CONTROL, HeaderValue::from_static(cache)),
        // Nobody else's page may hold ours and have Start pressed unseen. The page's own policy cannot say this.
        (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static("frame-ancestors 'none'")),
    ];
    (headers, Bytes::from_static(bytes)).into_response()
}
