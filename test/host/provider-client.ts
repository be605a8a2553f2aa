import { credentials, type ServiceError } from "@grpc/grpc-js";
import { ResourceProviderClient } from "@pulumi/pulumi/proto/provider_grpc_pb";
import {
  CheckRequest,
  type CheckResponse,
  ConfigureRequest,
  CreateRequest,
  type CreateResponse,
  DeleteRequest,
  DiffRequest,
  DiffResponse,
  ErrorResourceInitFailed,
  ReadRequest,
  type ReadResponse,
  UpdateRequest,
  type UpdateResponse,
} from "@pulumi/pulumi/proto/provider_pb";
import { Status } from "@pulumi/pulumi/proto/status_pb";
import { serializeFunction } from "@pulumi/pulumi/runtime";
import { type JavaScriptValue, Struct } from "google-protobuf/google/protobuf/struct_pb";
import { type LifeCycle, PartialFailure, type Properties } from "../../provider/src/resources/host";
import type { LifeCycles } from "../unit/stack";

/** What the SDK puts into `__provider` of each resource. */
export type ShimTexts = Readonly<Record<keyof LifeCycles, string>>;

/** Serializes the compiled SDK's shims as the class `dynamic.Resource` does. */
export async function shimTexts(): Promise<ShimTexts> {
  const { shims }: typeof import("../../sdk/src/shim") = require("../../sdk/dist/shim");
  const textOf = async (shim: object) => (await serializeFunction(() => shim, { allowSecrets: true })).text;
  return {
    claim: await textOf(shims.claim),
    cluster: await textOf(shims.virtualCluster),
    frontend: await textOf(shims.frontendNode),
    compute: await textOf(shims.computeNode),
  };
}

/** The host's life cycles, called as Pulumi's engine calls them. */
export class HostClient implements Disposable {
  private readonly provider: ResourceProviderClient;

  constructor(port: number) {
    this.provider = new ResourceProviderClient(`127.0.0.1:${port}`, credentials.createInsecure());
  }

  async configure(config: Readonly<Record<string, string>>): Promise<void> {
    const request = new ConfigureRequest().setArgs(Struct.fromJavaScript(config)).setAcceptsecrets(true);
    await answerTo((done) => this.provider.configure(request, done));
  }

  /** @param text of the resource's shim, for `__provider` */
  lifeCycle(text: string): LifeCycle {
    const { provider } = this;
    return {
      async check(olds, news) {
        const request = new CheckRequest().setOlds(structOf(olds)).setNews(structOf({ ...news, __provider: text }));
        const response = await answerTo<CheckResponse>((done) => provider.check(request, done));
        const failures = response.getFailuresList().map((failure) => failure.toObject());
        return { inputs: propertiesOf(response.getInputs()), failures };
      },
      async diff(id, olds, news) {
        const request = new DiffRequest().setId(id).setOlds(structOf(olds)).setNews(structOf(news));
        const response = await answerTo<DiffResponse>((done) => provider.diff(request, done));
        return {
          changes: response.getChanges() === DiffResponse.DiffChanges.DIFF_SOME ? true : undefined,
          replaces: response.getReplacesList(),
          deleteBeforeReplace: response.getDeletebeforereplace(),
        };
      },
      async create(inputs) {
        const request = new CreateRequest().setProperties(structOf(inputs));
        const response = await answerTo<CreateResponse>((done) => provider.create(request, done));
        return { id: response.getId(), outs: propertiesOf(response.getProperties()) };
      },
      async read(id, props) {
        const request = new ReadRequest().setId(id).setProperties(structOf(props));
        const response = await answerTo<ReadResponse>((done) => provider.read(request, done));
        return { id: response.getId(), props: propertiesOf(response.getProperties()) };
      },
      async update(id, olds, news) {
        const request = new UpdateRequest().setId(id).setOlds(structOf(olds)).setNews(structOf(news));
        const response = await answerTo<UpdateResponse>((done) => provider.update(request, done));
        return { outs: propertiesOf(response.getProperties()) };
      },
      async delete(id, props) {
        const request = new DeleteRequest().setId(id).setProperties(structOf(props));
        await answerTo((done) => provider.delete(request, done));
      },
    };
  }

  [Symbol.dispose](): void {
    this.provider.close();
  }
}

function answerTo<Answer>(ask: (done: (error: ServiceError | null, answer: Answer) => void) => void): Promise<Answer> {
  return new Promise((resolve, reject) => {
    ask((error, answer) => (error ? reject(partialFailureOf(error) ?? error) : resolve(answer)));
  });
}

/** A resource that exists and isn't right comes as a detail of the error. */
function partialFailureOf({ metadata }: ServiceError): PartialFailure | undefined {
  const [status] = metadata.get("grpc-status-details-bin");
  if (!(status instanceof Buffer)) {
    return undefined;
  }
  const [detail] = Status.deserializeBinary(status).getDetailsList();
  const failed = detail?.unpack(ErrorResourceInitFailed.deserializeBinary, "pulumirpc.ErrorResourceInitFailed");
  if (!failed) {
    return undefined;
  }
  const properties = propertiesOf(failed.getProperties());
  return new PartialFailure(failed.getId(), properties, properties, failed.getReasonsList().join("\n"));
}

function structOf(properties: Properties): Struct {
  return Struct.fromJavaScript(properties as Record<string, JavaScriptValue>);
}

function propertiesOf(struct: Struct | undefined): Properties {
  return struct?.toJavaScript() ?? {};
}
