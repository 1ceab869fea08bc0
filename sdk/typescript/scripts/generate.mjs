// Generates src/gen from the contract: messages and service definitions by ts-proto, run by the protoc of grpcio-tools.
// PYTHON names an interpreter with grpcio-tools, HEDGEROW_PROTOS the folder of the contract.
import { execFileSync } from "node:child_process";
import { existsSync, mkdirSync, readdirSync, rmSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const here = dirname(dirname(fileURLToPath(import.meta.url)));
const protos = process.env.HEDGEROW_PROTOS ?? join(here, "..", "..", "protos");
const environment = join(here, "..", "..", ".venv", "bin", "python");
const python = process.env.PYTHON ?? (existsSync(environment) ? environment : "python3");
const out = join(here, "src", "gen");
const own = readdirSync(protos, { recursive: true }).filter((name) => name.endsWith(".proto")).sort();
const wellKnown = execFileSync(python, [
  "-c",
  "import google.rpc, pathlib; print(pathlib.Path(next(iter(google.rpc.__path__))).parents[1])",
], { encoding: "utf8" }).trim();
const options = [
  "outputServices=generic-definitions", "esModuleInterop=true", "importSuffix=.js", "env=node", "forceLong=bigint",
  "stringEnums=true", "useOptionals=messages", "outputJsonMethods=false", "useExactTypes=false",
];

rmSync(out, { recursive: true, force: true });
mkdirSync(out, { recursive: true });
execFileSync(python, [
  "-m", "grpc_tools.protoc", `-I${protos}`, `-I${wellKnown}`,
  `--plugin=protoc-gen-ts_proto=${join(here, "node_modules", ".bin", "protoc-gen-ts_proto")}`,
  `--ts_proto_out=${out}`, `--ts_proto_opt=${options.join(",")}`,
  ...own, "google/rpc/status.proto", "google/rpc/error_details.proto",
], { stdio: "inherit" });
