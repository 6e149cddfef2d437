//! The HTTP API: the contract of the `api` crate over the committer, the stores and the event stream.

mod accounts;
mod blobs;
pub(crate) mod entry;
mod events;
mod extract;
mod health;
mod jobs;
mod leases;
mod payments;
mod proofs;
mod receipts;
mod reservations;
mod results;
mod verdicts;
mod web;
mod workers;

use std::sync::{Arc, Mutex, PoisonError};

use api::code;
use axum::{
    Router,
    body::Bytes,
    extract::DefaultBodyLimit,
    http::{HeaderName, HeaderValue, header},
    response::{IntoResponse, Response},
};
use store::{BlobStore, Journal, ReadModel};
use tokio::sync::{Semaphore, watch};
use utoipa::{
    Modify, OpenApi,
    openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme},
};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    archives::Archives,
    auth::Auth,
    committer::Committer,
    failure::Failure,
    follower::Follower,
    forward::{Forwarder, forward},
    keys::Secrets,
    limits::Limiter,
    live::Live,
    metrics::Metrics,
    quotas::Keeper,
};

/// Bytes of an ordinary request's body.
const BODY_BYTES_MAX: usize = 256 * 1024;
/// Bytes of a submission: its manifest may have [`program::MANIFEST_BYTES_MAX`].
const SUBMISSION_BYTES_MAX: usize = 2 * 1024 * 1024;
/// Bytes of a batch of receipts: 64 packages of 1 000 units with two outputs.
const RECEIPTS_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Items of a page.
const PAGE_MAX: u32 = 200;
/// Items of a page when nobody says.
const PAGE_DEFAULT: u32 = 50;

/// What handlers work with.
pub(crate) struct App {
    /// Decides and answers.
    pub committer: Committer,
    /// Keeps the read model.
    pub follower: Arc<Follower>,
    /// The event stream.
    pub live: Arc<Live>,
    /// Logins and tokens.
    pub auth: Auth,
    /// Blobs.
    pub blobs: Arc<BlobStore>,
    /// The market's secrets.
    pub secrets: Arc<Secrets>,
    /// What checks are drawn with.
    pub challenges: Arc<crate::challenges::Challenges>,
    /// What operators measure.
    pub metrics: Arc<Metrics>,
    /// How fast each caller may ask.
    pub limiter: Limiter,
    /// How much each account may have.
    pub quotas: Keeper,
    /// Makes a request's span part of its caller's trace.
    pub adopt_parent: Option<crate::AdoptParent>,
    /// Most tokens of one deposit, where there is a faucet.
    pub faucet: Option<protocol::Amount>,
    /// Turns true when the market stops.
    pub stop: watch::Receiver<bool>,
    /// For lists and statements.
    pub read_model: Arc<Mutex<ReadModel>>,
    /// The journal, where it is a file.
    pub journal_file: Option<std::path::PathBuf>,
    /// Jobs that the state has let go.
    pub archives: Arc<Archives>,
    /// For what is told event by event.
    pub journal: Mutex<Journal>,
    /// Output lengths of jobs that receipts name.
    pub output_lengths: receipts::OutputLengths,
    /// Programs being compiled.
    pub submissions: Semaphore,
    /// Results being joined.
    pub joins: Semaphore,
}

type Shared = Arc<App>;

impl App {
    /// Asks the read model, once it has everything journaled so far.
    async fn read<T: Send + 'static>(
        self: &Arc<Self>,
        ask: impl FnOnce(&ReadModel) -> Result<T, store::StoreError> + Send + 'static,
    ) -> Result<T, Failure> {
        let durable = *self.committer.status().durable.borrow();
        self.follower.caught_up(durable).await;
        let app = self.clone();
        let answer = tokio::task::spawn_blocking(move || {
            ask(&app.read_model.lock().unwrap_or_else(PoisonError::into_inner))
        });
        Ok(answer.await.map_err(Failure::internal)??)
    }
}

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Plexus market",
        description = "Submit jobs, lend devices, be paid. Money, 64-bit numbers and sequence numbers are decimal strings; \
                       keys are base58, hashes hex, signatures base64; times are RFC 3339. Errors are problem documents \
                       (RFC 9457) with a stable `code` and a `fix`.",
        license(name = "MIT OR Apache-2.0", identifier = "MIT OR Apache-2.0"),
    ),
    modifiers(&Security),
    components(schemas(api::Problem, api::Event)),
    tags(
        (name = "market", description = "The market itself"),
        (name = "auth", description = "Login by signature"),
        (name = "accounts", description = "Wallets"),
        (name = "blobs", description = "Content by its SHA-256"),
        (name = "jobs", description = "Work to be done"),
        (name = "workers", description = "Devices that do it"),
        (name = "payments", description = "Where the money went"),
        (name = "proofs", description = "That work was done and checked"),
        (name = "verdicts", description = "Packages that were contradicted"),
    ),
)]
struct Document;

struct Security;

impl Modify for Security {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).bearer_format("JWT").build();
        let components = document.components.get_or_insert_default();
        components.add_security_scheme("token", SecurityScheme::Http(bearer));
    }
}

/// Bytes of any kind, in the words of OpenAPI.
struct Octets;

impl utoipa::PartialSchema for Octets {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::Schema> {
        use utoipa::openapi::{KnownFormat, ObjectBuilder, SchemaFormat, Type};
        let format = SchemaFormat::KnownFormat(KnownFormat::Binary);
        ObjectBuilder::new().schema_type(Type::String).format(Some(format)).into()
    }
}

impl utoipa::ToSchema for Octets {}

/// Every answer that is not a success is a problem document.
struct Problems;

impl utoipa::IntoResponses for Problems {
    fn responses() -> std::collections::BTreeMap<String, utoipa::openapi::RefOr<utoipa::openapi::Response>> {
        use utoipa::openapi::{Content, Ref, ResponseBuilder};
        let content = Content::new(Some(Ref::from_schema_name("Problem")));
        let response = ResponseBuilder::new()
            .description("A problem, with a stable code and a fix")
            .content(api::PROBLEM_JSON, content)
            .build();
        [("default".to_owned(), response.into())].into()
    }
}

fn documented() -> OpenApiRouter<Shared> {
    let plain = OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(health::health))
        .routes(routes!(health::market))
        .routes(routes!(accounts::challenge))
        .routes(routes!(accounts::login))
        .routes(routes!(accounts::account))
        .routes(routes!(accounts::deposit))
        .routes(routes!(accounts::bond))
        .routes(routes!(accounts::unbond))
        .routes(routes!(jobs::rate))
        .routes(routes!(jobs::list))
        .routes(routes!(jobs::get))
        .routes(routes!(jobs::cancel))
        .routes(routes!(jobs::pause))
        .routes(routes!(jobs::unpause))
        .routes(routes!(jobs::resume))
        .routes(routes!(jobs::units))
        .routes(routes!(results::result))
        .routes(routes!(proofs::challenges))
        .routes(routes!(proofs::proof))
        .routes(routes!(proofs::packages))
        .routes(routes!(workers::announce, workers::list))
        .routes(routes!(workers::get))
        .routes(routes!(workers::heartbeat))
        .routes(routes!(workers::leave))
        .routes(routes!(workers::sealing_key))
        .routes(routes!(reservations::end))
        .routes(routes!(leases::lease))
        .routes(routes!(leases::release))
        .routes(routes!(payments::payments))
        .routes(routes!(payments::ledger))
        .routes(routes!(verdicts::list))
        .routes(routes!(verdicts::get))
        .routes(routes!(verdicts::contest))
        .routes(routes!(events::events))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX));
    let submission = OpenApiRouter::new()
        .routes(routes!(jobs::submit))
        .routes(routes!(jobs::quote))
        .routes(routes!(reservations::reserve))
        .layer(DefaultBodyLimit::max(SUBMISSION_BYTES_MAX));
    let receipts = OpenApiRouter::new()
        .routes(routes!(receipts::receipts))
        .layer(DefaultBodyLimit::max(RECEIPTS_BYTES_MAX));
    // Blobs are streamed and bounded where they are counted.
    let blobs = OpenApiRouter::new()
        .routes(routes!(blobs::put, blobs::get, blobs::head))
        .layer(DefaultBodyLimit::disable());
    let batch = OpenApiRouter::new()
        .routes(routes!(blobs::put_all))
        .layer(DefaultBodyLimit::max(protocol::batch::BATCH_BODY_BYTES_MAX));
    plain.merge(submission).merge(receipts).merge(blobs).merge(batch)
}

/// The OpenAPI document, as it is committed in `docs/openapi.json`.
pub fn openapi() -> String {
    let document = documented().into_openapi();
    let mut text = document.to_pretty_json().expect("the document serialises");
    text.push('\n');
    text
}

/// All routes.
pub(crate) fn router(app: Shared, forwarder: Forwarder) -> Router {
    let (documented, _) = documented().split_for_parts();
    documented
        .route("/v1/openapi.json", axum::routing::get(openapi_json))
        .route("/metrics", axum::routing::get(health::metrics))
        .fallback(web::asset)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(axum::middleware::map_response(harden))
        .layer(axum::middleware::from_fn_with_state(app.clone(), entry::pass))
        // The leader holds callers to the rates, so that there is one count of them.
        .layer(axum::middleware::from_fn_with_state(forwarder, forward))
        .with_state(app)
}

async fn openapi_json() -> impl IntoResponse {
    static DOCUMENT: std::sync::OnceLock<Bytes> = std::sync::OnceLock::new();
    let document = DOCUMENT.get_or_init(|| openapi().into()).clone();
    ([(header::CONTENT_TYPE, "application/json")], document)
}

async fn method_not_allowed() -> Failure {
    Failure::new(
        code::METHOD_NOT_ALLOWED,
        "this path does not take the method",
        "see /v1/openapi.json for the paths and their methods",
    )
}

/// What every answer says to browsers: take the media type at its word, so that a blob is never a page.
async fn harden(mut response: Response) -> Response {
    let nosniff = HeaderValue::from_static("nosniff");
    response.headers_mut().insert(HeaderName::from_static("x-content-type-options"), nosniff);
    response
}
