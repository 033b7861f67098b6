//! Whether the process should live, and whether it should get clients: this process alone, never its upstreams, or all
//! gates would leave their balancer together.

use crate::drain::Stage;
use crate::server::View;

/// Why it should get no clients, in words; nothing if it should.
pub(super) fn objections(view: &View) -> Vec<String> {
    let mut objections = Vec::new();
    if *view.stages.borrow() != Stage::Open {
        objections.push("stopping".to_owned());
    }
    let (open, most) = (view.open(), view.plan.connections());
    if open >= most {
        objections.push(format!("at its limit: {open} of {most} connections are open"));
    }
    let ended = view.workers.iter().enumerate().filter(|(_, worker)| !worker.is_running());
    objections.extend(ended.map(|(number, _)| format!("worker {number} has ended")));
    objections
}
