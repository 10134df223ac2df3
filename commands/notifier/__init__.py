"""What customers are told.

loop            follows the events and sends
notices         which events a customer is told of, and in which words (templates/)
message_port    email_door, sms_door
"""
