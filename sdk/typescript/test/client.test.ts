import assert from "node:assert/strict";
import { test } from "node:test";

import { Metadata, type ServiceError, status } from "@grpc/grpc-js";

import type { RotatingChannel } from "../src/channel.js";
import { serviceClient } from "../src/client.js";
import { CallCancelledError } from "../src/errors.js";
import { IngestionServiceDefinition } from "../src/gen/hedgerow/ingestion/v1/ingestion.js";
import { RetryBudget } from "../src/retry.js";

/** Stands for a connection to a service that is away. */
function away(attempts: string[]): RotatingChannel {
  const failure = Object.assign(new Error("away"), {
    code: status.UNAVAILABLE,
    details: "away",
    metadata: new Metadata(),
  });
  const makeUnaryRequest = (path: string, ...rest: unknown[]) => {
    attempts.push(path);
    const answer = rest.at(-1) as (error: ServiceError) => void;
    queueMicrotask(() => answer(failure));
    return { cancel: () => undefined };
  };
  return { current: () => ({ makeUnaryRequest }) } as unknown as RotatingChannel;
}

/** Aborts when an attempt has failed, just before the pause. */
class AbortingBudget extends RetryBudget {
  constructor(readonly abort: AbortController) {
    super();
  }

  override failed(): boolean {
    this.abort.abort();
    return super.failed();
  }
}

test("an abort between two attempts is the typed error", async () => {
  const attempts: string[] = [];
  const abort = new AbortController();
  const client = serviceClient(IngestionServiceDefinition, away(attempts), new AbortingBudget(abort), "");
  await assert.rejects(client.getDataset({ name: "datasets/d" }, { signal: abort.signal }), CallCancelledError);
  assert.equal(attempts.length, 1);
});
