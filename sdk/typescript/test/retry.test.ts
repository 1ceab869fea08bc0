import assert from "node:assert/strict";
import { test } from "node:test";

import { spiffeIdOf } from "../src/identity.js";
import { RetryBudget } from "../src/retry.js";

test("the budget allows a burst and then a tenth of what succeeds", () => {
  const budget = new RetryBudget();
  const burst = Array.from({ length: 200 }, () => budget.failed()).filter(Boolean);
  assert.equal(burst.length, 49);
  assert.equal(budget.tokens, 0);
  for (let call = 0; call < 520; call += 1) {
    budget.succeeded();
  }
  assert.equal(budget.failed(), true);
});

test("a certificate names one SPIFFE ID or none", () => {
  assert.equal(spiffeIdOf("DNS:localhost, URI:spiffe://hedgerow.local/user/ana"), "spiffe://hedgerow.local/user/ana");
  assert.equal(spiffeIdOf("URI:spiffe://hedgerow.local/user/ana, URI:spiffe://hedgerow.local/user/ben"), undefined);
  assert.equal(spiffeIdOf("URI:https://hedgerow.local/user/ana"), undefined);
  assert.equal(spiffeIdOf(undefined), undefined);
});
