import type * as pulumi from "@pulumi/pulumi";

/**
 * Pulumi keeps a serialized copy of a dynamic provider in the state, twice a resource. So a provider here is one
 * function: when the host configures it, it takes its life cycle from the package `@virtual-cluster/provider` that is
 * installed then. Nothing is captured, and the text never changes: state stays small, and old stacks run new code.
 *
 * (A method each that forwards, the usual way, makes a text four times as long: the serializer wraps every function.)
 */
interface Shim {
  configure(this: object, request: pulumi.dynamic.ConfigureRequest): void;
}

const claim: Shim = {
  configure(request) {
    Object.assign(this, require("@virtual-cluster/provider").claim(request));
  },
};

const virtualCluster: Shim = {
  configure(request) {
    Object.assign(this, require("@virtual-cluster/provider").virtualCluster(request));
  },
};

const frontendNode: Shim = {
  configure(request) {
    Object.assign(this, require("@virtual-cluster/provider").frontendNode(request));
  },
};

const computeNode: Shim = {
  configure(request) {
    Object.assign(this, require("@virtual-cluster/provider").computeNode(request));
  },
};

/** The host asks for the methods only after `configure`, so to the SDK's type they are there. */
function asProvider(shim: Shim): pulumi.dynamic.ResourceProvider {
  return shim as unknown as pulumi.dynamic.ResourceProvider;
}

export const shims = {
  claim: asProvider(claim),
  virtualCluster: asProvider(virtualCluster),
  frontendNode: asProvider(frontendNode),
  computeNode: asProvider(computeNode),
};
