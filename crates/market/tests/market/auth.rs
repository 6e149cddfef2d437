//! Logins, delegations and tokens.

use api::{Challenge, code};
use protocol::SecretKey;
use serde_json::json;

use crate::rig::{Rig, bad, good};

#[tokio::test]
async fn a_login_cannot_be_replayed() {
    let rig = Rig::start().await;
    let key = SecretKey::from_seed([1; 32]);
    let challenge: Challenge = good(rig.challenge(json!({"address": key.public()})).await).await;
    let login = json!({"nonce": challenge.nonce, "signature": key.sign_bytes(challenge.message.as_bytes())});
    let send =
        || async { rig.http.post(rig.url("/v1/auth/login")).json(&login).send().await.expect("an answer") };
    let session: api::Session = good(send().await).await;
    assert_eq!((session.account, session.key), (key.public(), key.public()));
    let problem = bad(send().await).await;
    assert_eq!(problem.code, code::NONCE_INVALID);
}

#[tokio::test]
async fn a_wrong_signature_uses_the_challenge_up() {
    let rig = Rig::start().await;
    let (key, thief) = (SecretKey::from_seed([1; 32]), SecretKey::from_seed([2; 32]));
    let challenge: Challenge = good(rig.challenge(json!({"address": key.public()})).await).await;
    for (signer, expected) in [(&thief, code::SIGNATURE_INVALID), (&key, code::NONCE_INVALID)] {
        let login =
            json!({"nonce": challenge.nonce, "signature": signer.sign_bytes(challenge.message.as_bytes())});
        let answer = rig.http.post(rig.url("/v1/auth/login")).json(&login).send().await.expect("an answer");
        assert_eq!(bad(answer).await.code, expected);
    }
}

#[tokio::test]
async fn the_message_names_host_wallet_and_delegation() {
    let rig = Rig::start().await;
    let (wallet, session) = (SecretKey::from_seed([1; 32]).public(), SecretKey::from_seed([2; 32]).public());
    let body = json!({"address": wallet, "session": {"key": session, "lifetime_s": 60}});
    let challenge: Challenge = good(rig.challenge(body).await).await;
    let lines: Vec<&str> = challenge.message.lines().collect();
    assert_eq!(lines[0], format!("{} wants you to sign in with your Solana account:", rig.market.addr()));
    assert_eq!(lines[1], wallet.to_string());
    assert!(lines.contains(&&*format!("Nonce: {}", challenge.nonce)));
    let resource = lines.last().expect("a line");
    assert!(resource.starts_with(&format!("- plexus:session:{session}?expires=20")), "{resource}");

    // A page that is not ours cannot have our message written for it.
    let answer = rig.http.post(rig.url("/v1/auth/challenge")).header("host", "evil.example");
    let answer = answer.json(&json!({"address": wallet})).send().await.expect("an answer");
    assert_eq!(bad(answer).await.code, code::REQUEST_INVALID);
    for lifetime_s in [0, 31 * 24 * 3600] {
        let body = json!({"address": wallet, "session": {"key": session, "lifetime_s": lifetime_s}});
        assert_eq!(bad(rig.challenge(body).await).await.field.as_deref(), Some("session.lifetime_s"));
    }
}

#[tokio::test]
async fn a_session_key_acts_for_its_wallet_and_logs_in_by_itself() {
    let rig = Rig::start().await;
    let (wallet, session) = (SecretKey::from_seed([1; 32]), SecretKey::from_seed([2; 32]));
    let first = rig.login_with(&wallet, Some(&session)).await;
    assert_eq!(first.account, wallet.public());
    let again = rig.login_with(&session, None).await;
    assert_eq!(again.account, wallet.public());
    let worker = again.announce("tab").await;
    assert_eq!((worker.id, worker.owner), (session.public(), wallet.public()));
    // Nobody else's wallet can take the key over.
    let thief = SecretKey::from_seed([3; 32]);
    let body = json!({"address": thief.public(), "session": {"key": session.public(), "lifetime_s": 60}});
    let challenge: Challenge = good(rig.challenge(body).await).await;
    let sign = |key: &SecretKey| key.sign_bytes(challenge.message.as_bytes());
    let login = json!({
        "nonce": challenge.nonce, "signature": sign(&thief), "session_signature": sign(&session),
    });
    let answer = rig.http.post(rig.url("/v1/auth/login")).json(&login).send().await.expect("an answer");
    assert_eq!(bad(answer).await.code, code::UNAUTHENTICATED);
    // And what was delegated is still so after a restart.
    let rig = rig.restart().await;
    assert_eq!(rig.login_with(&session, None).await.account, wallet.public());
}

#[tokio::test]
async fn a_key_that_did_not_sign_acts_for_nobody() {
    let rig = Rig::start().await;
    let (thief, victim) = (SecretKey::from_seed([3; 32]), SecretKey::from_seed([4; 32]));
    for signer in [None, Some(&thief)] {
        let body = json!({"address": thief.public(), "session": {"key": victim.public(), "lifetime_s": 60}});
        let challenge: Challenge = good(rig.challenge(body).await).await;
        let sign = |key: &SecretKey| key.sign_bytes(challenge.message.as_bytes());
        let mut login = json!({"nonce": challenge.nonce, "signature": sign(&thief)});
        if let Some(signer) = signer {
            login["session_signature"] = json!(sign(signer));
        }
        let answer = rig.http.post(rig.url("/v1/auth/login")).json(&login).send().await.expect("an answer");
        assert_eq!(bad(answer).await.code, code::SIGNATURE_INVALID);
    }
    assert_eq!(rig.login_with(&victim, None).await.account, victim.public());
}

#[tokio::test]
async fn writes_need_a_token() {
    let rig = Rig::start().await;
    for path in ["/v1/jobs", "/v1/workers", "/v1/leases", "/v1/receipts", "/v1/jobs/job-1/cancel"] {
        let answer = rig.http.post(rig.url(path)).json(&json!({})).send().await.expect("an answer");
        assert_eq!(bad(answer).await.code, code::UNAUTHENTICATED, "{path}");
    }
    let mut person = rig.person(1).await;
    person.token.push('x');
    assert_eq!(bad(person.announce_as("a").await).await.code, code::UNAUTHENTICATED);
}
