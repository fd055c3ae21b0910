//! DataFusion's physical expressions behind the engine's contract.

use std::fmt;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::Schema;
use dataflow::graph::{ExprRef, Expression, ExpressionError};
use datafusion_expr::Expr;
use datafusion_expr::execution_props::ExecutionProps;
use datafusion_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion_physical_expr::expressions::Column;
use datafusion_physical_expr::{PhysicalExpr, create_physical_expr};

use crate::expr::{df_schema, plain_error};

struct Physical {
    expr: Arc<dyn PhysicalExpr>,
    column: Option<usize>,
    text: String,
}

impl fmt::Debug for Physical {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Expression for Physical {
    fn evaluate(&self, batch: &RecordBatch) -> Result<ArrayRef, ExpressionError> {
        if let Some(column) = self.column {
            return Ok(Arc::clone(batch.column(column)));
        }
        self.expr
            .evaluate(batch)
            .and_then(|value| value.into_array(batch.num_rows()))
            .map_err(|error| ExpressionError { expression: self.text.clone(), message: plain_error(error) })
    }

    fn as_column(&self) -> Option<usize> {
        self.column
    }
}

/// Makes an expression ready to run over batches of a schema; `text` is how people read it.
pub(crate) fn compile(expr: &Expr, input: &Schema, text: String) -> Result<ExprRef, String> {
    let schema = df_schema(input).map_err(plain_error)?;
    let physical = create_physical_expr(expr, &schema, &ExecutionProps::new(), &PhysicalPlanningContext::default())
        .map_err(plain_error)?;
    let column = (physical.as_ref() as &dyn std::any::Any).downcast_ref::<Column>().map(Column::index);
    Ok(Arc::new(Physical { expr: physical, column, text }))
}
