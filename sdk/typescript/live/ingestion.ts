/** Asks a running ingestion service for its datasets and makes two mistakes; prints what it saw as JSON. */
import { Hedgerow, HedgerowError } from "../src/index.js";

const address = process.env["ADDRESS"]!;
const nowhere = "127.0.0.1:1";
const hedgerow = Hedgerow.connect(process.env["IDENTITY_FOLDER"]!, {
  ingestion: address,
  features: nowhere,
  training: nowhere,
  inference: nowhere,
  secrets: nowhere,
  governance: nowhere,
});

async function failure(call: Promise<unknown>): Promise<HedgerowError> {
  try {
    await call;
  } catch (error) {
    if (error instanceof HedgerowError) {
      return error;
    }
    throw error;
  }
  throw new Error("the call did not fail");
}

try {
  const { datasets } = await hedgerow.ingestion.listDatasets({ pageSize: 10 });
  const missing = await failure(hedgerow.ingestion.getDataset({ name: "datasets/none" }));
  const malformed = await failure(hedgerow.ingestion.getDataset({ name: "Not A Name" }));
  console.log(
    JSON.stringify({
      names: datasets.map((dataset) => dataset.name),
      version: String(datasets[0]?.version),
      missing: [missing.name, missing.code, missing.reason],
      malformed: [malformed.name, malformed.reason, Object.keys(malformed.fields)],
    }),
  );
} finally {
  hedgerow.close();
}
