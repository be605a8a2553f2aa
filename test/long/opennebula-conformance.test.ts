import { openNebulaBackendWithOwnDisks } from "../conformance/opennebula";
import { describeConformance } from "../conformance/suite";

describeConformance("opennebula, each node with a disk of its own", openNebulaBackendWithOwnDisks);
