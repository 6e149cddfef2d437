//! Where the money went.

use api::{Ledger, Page, Payment, code};
use axum::{Json, extract::State};
use protocol::{JobId, PublicKey};
use serde::Deserialize;
use store::MovementFilter;
use utoipa::IntoParams;

use super::{PAGE_DEFAULT, PAGE_MAX, Problems, Shared, extract::Asked};
use crate::{failure::Failure, view};

/// Which payments.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct PaymentsAsked {
    /// That changed this wallet's balance.
    account: Option<PublicKey>,
    /// For this job.
    job: Option<JobId>,
    /// From the page before.
    cursor: Option<String>,
    /// Items a page, at most 200.
    #[param(maximum = 200)]
    limit: Option<u32>,
}

/// A payment's place in the list.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    seq: u64,
    part: u32,
    share: u8,
}

impl Place {
    fn parse(cursor: &str) -> Option<Self> {
        let mut parts = cursor.split('.');
        let place = Self {
            seq: parts.next()?.parse().ok()?,
            part: parts.next()?.parse().ok()?,
            share: parts.next()?.parse().ok()?,
        };
        parts.next().is_none().then_some(place)
    }
}

/// List payments, newest first
#[utoipa::path(get, path = "/v1/payments", tag = "payments", operation_id = "payments", params(PaymentsAsked),
    responses((status = 200, body = Page<Payment>), Problems))]
pub async fn payments(
    State(app): State<Shared>,
    Asked(asked): Asked<PaymentsAsked>,
) -> Result<Json<Page<Payment>>, Failure> {
    let limit = asked.limit.unwrap_or(PAGE_DEFAULT).clamp(1, PAGE_MAX) as usize;
    let before = match &asked.cursor {
        None => None,
        Some(cursor) => Some(Place::parse(cursor).ok_or_else(|| {
            Failure::new(
                code::REQUEST_INVALID,
                "the cursor is not one of ours",
                "use `next` of the page before",
            )
            .at("cursor")
        })?),
    };
    let filter = MovementFilter {
        account: asked.account,
        job: asked.job,
        upto: before.map(|place| (place.seq, place.part)),
        // Of the cursor's own row nothing may be left.
        limit: limit as u32 + 2,
    };
    let movements = app.read(move |model| model.movements(&filter)).await?;
    let mut items: Vec<(Place, Payment)> = movements
        .iter()
        .flat_map(|m| {
            let (seq, part) = (m.seq, m.part);
            view::payments(m).map(move |(share, payment)| (Place { seq, part, share }, payment))
        })
        .filter(|(place, _)| before.is_none_or(|before| *place < before))
        .take(limit + 1)
        .collect();
    let next = (items.len() > limit).then(|| {
        items.truncate(limit);
        let Place { seq, part, share } = items[limit - 1].0;
        format!("{seq}.{part}.{share}")
    });
    Ok(Json(Page { items: items.into_iter().map(|(_, payment)| payment).collect(), next }))
}

/// All money there is
#[utoipa::path(get, path = "/v1/ledger", tag = "payments", operation_id = "ledger",
    responses((status = 200, body = Ledger), Problems))]
pub async fn ledger(State(app): State<Shared>) -> Result<Json<Ledger>, Failure> {
    Ok(Json(app.committer.query(|state, _| view::ledger(state)).await?))
}
