"""Classical filters, resampling and masks: functions of an array (x, y, z), its spacing in mm and parameters."""
