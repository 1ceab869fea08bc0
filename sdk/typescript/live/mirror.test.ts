/**
 * Against running servers that answer every RPC with an empty message; the Python test that starts them says where they are
 * and how they fail for which purpose (tests/integration/sdk_typescript).
 */
import assert from "node:assert/strict";
import { after, test } from "node:test";

import { Hedgerow, type Addresses, type Service } from "../src/index.js";
import {
  CallCancelledError,
  DeadlineExceededError,
  InvalidArgumentError,
  UnavailableError,
  UnauthenticatedError,
} from "../src/errors.js";

const folder = process.env["IDENTITY_FOLDER"]!;
const addresses = JSON.parse(process.env["ADDRESSES"]!) as Addresses;
const hedgerow = Hedgerow.connect(folder, addresses, { purpose: "every" });
after(() => hedgerow.close());

async function* three(): AsyncGenerator<object> {
  for (let sent = 0; sent < 3; sent += 1) {
    yield {};
  }
}

const STREAMED = /^(watch|read|export|download)/;

test("every RPC is reachable", async () => {
  const services = ["ingestion", "features", "training", "models", "inference", "secrets", "governance"] as const;
  for (const service of services) {
    for (const [name, call] of Object.entries(hedgerow[service]) as [string, (request: any) => any][]) {
      if (name === "appendRecords") {
        await call(three());
      } else if (STREAMED.test(name)) {
        const answers = [];
        for await (const answer of call({})) {
          answers.push(answer);
        }
        assert.equal(answers.length, 3, `${service}.${name}`);
      } else {
        assert.equal(typeof (await call({})), "object");
      }
    }
  }
});

test("messages are typed", async () => {
  const dataset = await hedgerow.ingestion.getDataset({ name: "datasets/d" });
  const version: bigint = dataset.version;
  assert.equal(version, 0n);
  assert.equal(dataset.createTime, undefined);
});

test("a deadline is the typed error", async () => {
  const slow = hedgerow.forPurpose("slow");
  await assert.rejects(slow.ingestion.getDataset({ name: "datasets/d" }, { timeout: 0.5 }), DeadlineExceededError);
  const stream = slow.governance.exportAuditTrail({}, { timeout: 0.5 });
  await assert.rejects(stream.next(), DeadlineExceededError);
});

test("a signal cancels a call", async () => {
  const slow = hedgerow.forPurpose("slow");
  const abort = new AbortController();
  const call = slow.ingestion.getDataset({ name: "datasets/d" }, { signal: abort.signal });
  setImmediate(() => abort.abort());
  await assert.rejects(call, CallCancelledError);
});

test("a signal that is aborted already keeps a call from being made", async () => {
  const unmade = hedgerow.forPurpose("unmade");
  const options = { signal: AbortSignal.abort() };
  await assert.rejects(unmade.ingestion.getDataset({ name: "datasets/d" }, options), CallCancelledError);
  await assert.rejects(unmade.ingestion.appendRecords(three(), options), CallCancelledError);
  await assert.rejects(unmade.governance.exportAuditTrail({}, options).next(), CallCancelledError);
});

test("a signal cancels an upload that waits for its answer", async () => {
  const abort = new AbortController();
  async function* abortedAfterTheLast(): AsyncGenerator<object> {
    yield* three();
    setImmediate(() => abort.abort());
  }
  const call = hedgerow.forPurpose("slow").ingestion.appendRecords(abortedAfterTheLast(), { signal: abort.signal });
  await assert.rejects(call, CallCancelledError);
});

test("what is safe is tried again, what is not fails at once", async () => {
  await hedgerow.forPurpose("away_twice").ingestion.getDataset({ name: "datasets/d" });
  await assert.rejects(
    hedgerow.forPurpose("away").ingestion.createDataset({ datasetId: "d" }),
    (error: UnavailableError) => error instanceof UnavailableError && error.reason === "DEPENDENCY_UNAVAILABLE",
  );
});

test("a refusal comes with its reason and fields", async () => {
  await assert.rejects(hedgerow.forPurpose("invalid").ingestion.getDataset({ name: "d" }), (error: InvalidArgumentError) => {
    assert.ok(error instanceof InvalidArgumentError);
    assert.equal(error.reason, "FIELD_INVALID");
    assert.deepEqual(error.fields, { name: "expected datasets/{dataset}" });
    return true;
  });
});

test("leaving a stream early cancels it", async () => {
  for await (const _ of hedgerow.governance.exportAuditTrail({})) {
    break;
  }
});

test("an address may name several replicas, of which one is away", async () => {
  const replicated = Hedgerow.connect(folder, { ...addresses, ingestion: `127.0.0.1:1,${addresses.ingestion}` });
  await replicated.ingestion.getDataset({ name: "datasets/d" });
  replicated.close();
});

test("a peer that is another service is not talked to", async () => {
  const swapped = { ...addresses, ingestion: addresses.features };
  const misled = Hedgerow.connect(folder, swapped);
  await assert.rejects(misled.ingestion.getDataset({ name: "datasets/d" }, { timeout: 2 }), (error: Error) => {
    return error instanceof UnavailableError || error instanceof DeadlineExceededError;
  });
  misled.close();
});

test("a peer with the right name and another SPIFFE ID is not talked to", async () => {
  const impostor = process.env["IMPOSTOR"]!;
  const misled = Hedgerow.connect(folder, { ...addresses, ingestion: impostor });
  await assert.rejects(
    misled.ingestion.getDataset({ name: "datasets/d" }, { timeout: 2 }),
    (error: Error) => error instanceof UnavailableError || error instanceof DeadlineExceededError,
  );
  misled.close();
});

test("without an identity one is told to log in", () => {
  assert.throws(() => Hedgerow.connect("/nonexistent", addresses), UnauthenticatedError);
});

test("a renewed certificate is followed without a failed call", async () => {
  const service: Service = "features";
  const rotating = hedgerow.forPurpose("rotation");
  const stream = hedgerow.forPurpose("rotation_stream").features.watchTrainingSet({ name: "trainingSets/t" });
  const streamed = (async () => {
    let answers = 0;
    for await (const _ of stream) {
      answers += 1;
    }
    return answers;
  })();
  let calls = 0;
  while (rotating.rotations(service) === 0) {
    await rotating.features.getTrainingSet({ name: "trainingSets/t" });
    calls += 1;
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  await rotating.features.getTrainingSet({ name: "trainingSets/t" }, { purpose: "rotated" });
  assert.equal(rotating.rotations(service), 1);
  assert.ok(calls > 0);
  assert.equal(await streamed, 3);
});
