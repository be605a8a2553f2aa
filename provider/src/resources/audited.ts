import { audited, type Change } from "../audit";
import { clusterNameIn } from "./context";
import type { LifeCycle, Properties } from "./host";

/** The same life cycle, with a line in the audit log for each change that it makes at a site. */
export function withAudit(lifeCycle: LifeCycle): LifeCycle {
  return {
    ...lifeCycle,
    create: (inputs) => audited(changeOf("create", inputs), () => lifeCycle.create(inputs)),
    update: (id, olds, news) => audited(changeOf("update", news), () => lifeCycle.update(id, olds, news)),
    delete: (id, props) => audited(changeOf("delete", props), () => lifeCycle.delete(id, props)),
  };
}

/** Of a cluster's properties or of a node's. */
function changeOf(operation: Change["operation"], { clusterName, clusterId, node, owner, siteId }: Properties): Change {
  return {
    operation,
    cluster: String(clusterName ?? clusterNameIn(String(clusterId))),
    ...(node !== undefined && { node: String(node) }),
    site: String(siteId),
    ...(owner !== undefined && { owner: String(owner) }),
  };
}
